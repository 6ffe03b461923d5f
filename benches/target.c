// target: UDP sink / echo / source in one process. Selected by first payload byte:
//  'U' count  'E' echo  'W' warm-up echo  'S' source request  'Q' query counters
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#define B 64
#define NRUN 64
#define NFLOW 4096
struct run {
    uint32_t id;
    uint64_t up, upbytes, src, echo;
    uint64_t rx, tx; // all payloads of the run but control queries, either way
} runs[NRUN];
static int runpos;
struct flow {
    int used;
    struct sockaddr_in to;
    uint32_t run;
    uint16_t size;
    uint32_t rate;
    uint64_t t0, end, sent;
    int gso;
    uint8_t fid;
} flows[NFLOW];
static int nflow;
static volatile sig_atomic_t want_stats, stop;
static void on_usr1(int s) {
    (void)s;
    want_stats = 1;
}
static void on_term(int s) {
    (void)s;
    stop = 1;
}
static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}
static uint32_t r32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static void w32(uint8_t *p, uint32_t v) {
    p[0] = v >> 24;
    p[1] = v >> 16;
    p[2] = v >> 8;
    p[3] = v;
}
static struct run *getrun(uint32_t id) {
    static struct run *last;
    if (last && last->id == id)
        return last;
    for (int i = 0; i < NRUN; i++)
        if (runs[i].id == id)
            return last = &runs[i];
    struct run *r = &runs[runpos];
    runpos = (runpos + 1) % NRUN;
    memset(r, 0, sizeof *r);
    r->id = id;
    return last = r;
}
static int fd;
static int use_gro;
static uint8_t rbuf[B][65536];
static struct sockaddr_in raddr[B];
static struct iovec riov[B];
static struct mmsghdr rmsg[B];
static char rctl[B][64];
static uint8_t sbuf[65536];
static uint8_t obuf[B][1600];
static struct iovec oiov[B];
static struct mmsghdr omsg[B];
static struct sockaddr_in oaddr[B];
static int on;
static uint64_t tx_dropped; // what the kernel did not take, of all runs
static void flush(void) {
    int o = 0;
    while (o < on) {
        int k = sendmmsg(fd, omsg + o, on - o, 0);
        if (k < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN) {
                struct pollfd p = {fd, POLLOUT, 0};
                poll(&p, 1, 10);
                continue;
            }
            o++;
            tx_dropped++;
            continue;
        }
        o += k;
    }
    on = 0;
}
static void queue(const struct sockaddr_in *to, const uint8_t *d, size_t n) {
    if (n > 1600)
        n = 1600;
    memcpy(obuf[on], d, n);
    oaddr[on] = *to;
    oiov[on].iov_base = obuf[on];
    oiov[on].iov_len = n;
    memset(&omsg[on], 0, sizeof omsg[on]);
    omsg[on].msg_hdr.msg_iov = &oiov[on];
    omsg[on].msg_hdr.msg_iovlen = 1;
    omsg[on].msg_hdr.msg_name = &oaddr[on];
    omsg[on].msg_hdr.msg_namelen = sizeof oaddr[on];
    if (++on == B)
        flush();
}
static void one(uint8_t *d, size_t n, struct sockaddr_in *from) {
    if (n < 5)
        return;
    uint32_t id = r32(d + 1);
    if (d[0] != 'Q')
        getrun(id)->rx++;
    switch (d[0]) {
    case 'U': {
        struct run *r = getrun(id);
        r->up++;
        r->upbytes += n;
        break;
    }
    case 'E':
        getrun(id)->echo++;
        getrun(id)->tx++;
        queue(from, d, n);
        break;
    case 'W':
        getrun(id)->tx++;
        queue(from, d, n);
        break;
    case 'S': {
        if (n < 17)
            return;
        for (int i = 0; i < nflow; i++)
            if (flows[i].used && flows[i].run == id && flows[i].fid == d[16])
                return; // duplicate
        int i;
        for (i = 0; i < NFLOW && flows[i].used; i++)
            ;
        if (i == NFLOW)
            return;
        if (i >= nflow)
            nflow = i + 1;
        struct flow *f = &flows[i];
        f->used = 1;
        f->to = *from;
        f->run = id;
        f->size = d[5] << 8 | d[6];
        f->rate = r32(d + 7);
        f->t0 = now();
        f->end = f->t0 + (uint64_t)r32(d + 11) * 1000000;
        f->gso = d[15] & 1;
        f->fid = d[16];
        f->sent = 0;
        if (f->size < 17)
            f->size = 17;
        if (f->size > 1500)
            f->size = 1500;
        break;
    }
    case 'Q': {
        struct run *r = getrun(id);
        struct rusage u;
        getrusage(RUSAGE_SELF, &u);
        char s[512];
        s[0] = 'Q';
        memcpy(s + 1, d + 1, 4);
        int k = snprintf(s + 5, 500, "{\"up\":%llu,\"upbytes\":%llu,\"src\":%llu,\"echo\":%llu,\"rx\":%llu,\"tx\":%llu,"
                         "\"tx_dropped\":%llu,\"cpu_us\":%llu}",
                         (unsigned long long)r->up, (unsigned long long)r->upbytes, (unsigned long long)r->src,
                         (unsigned long long)r->echo, (unsigned long long)r->rx, (unsigned long long)r->tx,
                         (unsigned long long)tx_dropped,
                         (unsigned long long)(u.ru_utime.tv_sec * 1000000ull + u.ru_utime.tv_usec +
                                              u.ru_stime.tv_sec * 1000000ull + u.ru_stime.tv_usec));
        queue(from, (uint8_t *)s, 5 + k);
        break;
    }
    }
}
static void pump(void) { // send what flows are due
    uint64_t t = now();
    int any = 0;
    for (int i = 0; i < nflow; i++) {
        struct flow *f = &flows[i];
        if (!f->used)
            continue;
        any = 1;
        uint64_t te = t < f->end ? t : f->end;
        uint64_t due = (te - f->t0) * f->rate / 1000000000ull;
        int64_t k = due - f->sent;
        struct run *r = getrun(f->run);
        if (k > (int64_t)f->rate / 20 + 64)
            k = f->rate / 20 + 64;
        sbuf[0] = 'D';
        w32(sbuf + 1, f->run);
        if (f->gso && k > 0) {
            while (k > 0) {
                int m = k > 32 ? 32 : k;
                if (m * f->size > 60000)
                    m = 60000 / f->size;
                for (int j = 0; j < m; j++) {
                    uint8_t *q = sbuf + j * f->size;
                    q[0] = 'D';
                    w32(q + 1, f->run);
                    w32(q + 5, f->sent + j);
                    memset(q + 9, 0, 8);
                }
                struct iovec io = {sbuf, (size_t)m * f->size};
                union {
                    char b[CMSG_SPACE(2)];
                    struct cmsghdr h;
                } c;
                memset(&c, 0, sizeof c);
                struct msghdr mh = {&f->to, sizeof f->to, &io, 1, c.b, sizeof c.b, 0};
                struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
                cm->cmsg_level = SOL_UDP;
                cm->cmsg_type = UDP_SEGMENT;
                cm->cmsg_len = CMSG_LEN(2);
                uint16_t g = f->size;
                memcpy(CMSG_DATA(cm), &g, 2);
                if (m == 1) {
                    mh.msg_control = 0;
                    mh.msg_controllen = 0;
                }
                ssize_t w = sendmsg(fd, &mh, 0);
                if (w < 0 && errno == EAGAIN) {
                    struct pollfd p = {fd, POLLOUT, 0};
                    poll(&p, 1, 5);
                    continue;
                }
                if (w >= 0) {
                    r->src += m;
                    r->tx += m;
                }
                f->sent += m;
                k -= m;
            }
        } else
            for (; k > 0; k--) {
                w32(sbuf + 5, f->sent);
                queue(&f->to, sbuf, f->size);
                f->sent++;
                r->src++;
                r->tx++;
            }
        if (t >= f->end && f->sent >= due) {
            f->used = 0;
            while (nflow > 0 && !flows[nflow - 1].used)
                nflow--;
        }
    }
    (void)any;
    if (on)
        flush();
}
int main(int argc, char **argv) {
    int port = 9000;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-gro"))
            use_gro = 1;
        else
            port = atoi(argv[i]);
    }
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    int v = 64 << 20;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &v, sizeof v))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &v, sizeof v);
    v = 16 << 20;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &v, sizeof v))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &v, sizeof v);
    if (use_gro) {
        v = 1;
        if (setsockopt(fd, SOL_UDP, UDP_GRO, &v, sizeof v))
            perror("UDP_GRO");
    }
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (void *)&a, sizeof a)) {
        perror("bind");
        return 1;
    }
    struct sigaction sa = {.sa_handler = on_usr1};
    sigaction(SIGUSR1, &sa, 0);
    sa.sa_handler = on_term;
    sigaction(SIGTERM, &sa, 0);
    sigaction(SIGINT, &sa, 0);
    fprintf(stderr, "target on 127.0.0.1:%d gro=%d pid=%d\n", port, use_gro, getpid());
    uint64_t next = 0;
    while (!stop) {
        if (want_stats) {
            want_stats = 0;
            for (int i = 0; i < NRUN; i++)
                if (runs[i].id)
                    printf("{\"run\":%u,\"up\":%llu,\"upbytes\":%llu,\"src\":%llu,\"echo\":%llu}\n", runs[i].id,
                           (unsigned long long)runs[i].up, (unsigned long long)runs[i].upbytes,
                           (unsigned long long)runs[i].src, (unsigned long long)runs[i].echo);
            fflush(stdout);
        }
        struct pollfd p = {fd, POLLIN, 0};
        struct timespec ts = {1, 0};
        if (nflow) {
            uint64_t t = now();
            if (next < t - 20000000ull)
                next = t;
            int64_t d = next - t;
            if (d < 0)
                d = 0;
            ts.tv_sec = 0;
            ts.tv_nsec = d;
        }
        int k = ppoll(&p, 1, &ts, 0);
        if (k > 0) {
            for (int round = 0; round < 16; round++) {
                for (int i = 0; i < B; i++) {
                    riov[i].iov_base = rbuf[i];
                    riov[i].iov_len = use_gro ? 65536 : 2048;
                    memset(&rmsg[i], 0, sizeof rmsg[i]);
                    rmsg[i].msg_hdr.msg_iov = &riov[i];
                    rmsg[i].msg_hdr.msg_iovlen = 1;
                    rmsg[i].msg_hdr.msg_name = &raddr[i];
                    rmsg[i].msg_hdr.msg_namelen = sizeof raddr[i];
                    if (use_gro) {
                        rmsg[i].msg_hdr.msg_control = rctl[i];
                        rmsg[i].msg_hdr.msg_controllen = 64;
                    }
                }
                int n = recvmmsg(fd, rmsg, B, 0, 0);
                if (n <= 0)
                    break;
                for (int i = 0; i < n; i++) {
                    size_t len = rmsg[i].msg_len, seg = len;
                    if (use_gro)
                        for (struct cmsghdr *c = CMSG_FIRSTHDR(&rmsg[i].msg_hdr); c;
                             c = CMSG_NXTHDR(&rmsg[i].msg_hdr, c))
                            if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
                                int g;
                                memcpy(&g, CMSG_DATA(c), sizeof g);
                                seg = g;
                            }
                    for (size_t o = 0; o < len; o += seg)
                        one(rbuf[i] + o, len - o < seg ? len - o : seg, &raddr[i]);
                }
                if (on)
                    flush();
                if (n < B)
                    break;
            }
        }
        if (nflow) {
            uint64_t t = now();
            if (t >= next) {
                pump();
                next += 1000000;
            }
        }
    }
    for (int i = 0; i < NRUN; i++)
        if (runs[i].id)
            printf("{\"run\":%u,\"up\":%llu,\"upbytes\":%llu,\"src\":%llu,\"echo\":%llu}\n", runs[i].id,
                   (unsigned long long)runs[i].up, (unsigned long long)runs[i].upbytes, (unsigned long long)runs[i].src,
                   (unsigned long long)runs[i].echo);
    return 0;
}
