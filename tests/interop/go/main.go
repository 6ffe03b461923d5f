// A peer for the interoperability tests: masque-go's library as client or as proxy, with an initial packet size that lets
// payloads of up to 1400 bytes through (the stock programs start at 1350 and 1280 bytes).
//
// It reads commands and prints facts, one JSON document per line, so that a test in any language can drive it.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/quic-go/masque-go"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/yosida95/uritemplate/v3"
)

var (
	template   = flag.String("template", "", "URI template of the proxy")
	caFile     = flag.String("ca", "", "client: file with the certificate authority to trust")
	target     = flag.String("target", "", "client: host:port to open a tunnel to")
	bind       = flag.String("bind", "127.0.0.1:0", "proxy: address to listen on")
	certFile   = flag.String("cert", "", "proxy: certificate")
	keyFile    = flag.String("key", "", "proxy: key")
	packetSize = flag.Int("initial-packet-size", 1452, "bytes of UDP payload that QUIC starts with")
	refuse     = flag.Int("refuse", 0, "proxy: answer every request with this status")
)

func say(fact map[string]any) {
	line, err := json.Marshal(fact)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}

// command is one line from the test: send a payload of `Size` bytes, or close.
type command struct {
	Do   string `json:"do"`
	Size int    `json:"size"`
	Fill byte   `json:"fill"`
}

func commands() <-chan command {
	out := make(chan command)
	go func() {
		defer close(out)
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			var c command
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				log.Fatalf("bad command %q: %v", lines.Text(), err)
			}
			out <- c
		}
	}()
	return out
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: interop client|proxy [flags]")
	}
	role := os.Args[1]
	if err := flag.CommandLine.Parse(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
	switch role {
	case "client":
		client()
	case "proxy":
		proxy()
	default:
		log.Fatalf("unknown role %q", role)
	}
}

func quicConfig() *quic.Config {
	return &quic.Config{EnableDatagrams: true, InitialPacketSize: uint16(*packetSize), DisablePathMTUDiscovery: true, MaxIdleTimeout: 30 * time.Second}
}

func client() {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(*caFile)
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		log.Fatalf("cannot use %s: %v", *caFile, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	transport := masque.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, NextProtos: []string{http3.NextProtoH3}}, QUICConfig: quicConfig()}
	request, err := masque.NewRequest(ctx, uritemplate.MustNew(*template), *target)
	if err != nil {
		log.Fatal(err)
	}
	conn, response, err := transport.Dial(request)
	if response != nil {
		say(map[string]any{"event": "response", "status": response.StatusCode, "proxy_status": response.Header.Get("Proxy-Status")})
	}
	if err != nil {
		say(map[string]any{"event": "refused", "error": err.Error()})
		return
	}
	say(map[string]any{"event": "opened", "remote": conn.RemoteAddr().String()})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 65536)
		for {
			n, _, err := conn.ReadFrom(buffer)
			if err != nil {
				say(map[string]any{"event": "ended", "error": err.Error()})
				return
			}
			same := true
			for _, b := range buffer[:n] {
				same = same && b == buffer[0]
			}
			say(map[string]any{"event": "received", "size": n, "uniform": same})
		}
	}()
	for c := range commands() {
		switch c.Do {
		case "send":
			payload := make([]byte, c.Size)
			for i := range payload {
				payload[i] = c.Fill
			}
			if _, err := conn.WriteTo(payload, nil); err != nil {
				say(map[string]any{"event": "send failed", "size": c.Size, "error": err.Error()})
			}
		case "close":
			if err := conn.Close(); err != nil {
				log.Print(err)
			}
		}
	}
	<-done
}

func proxy() {
	parsed, err := uritemplate.New(*template)
	if err != nil {
		log.Fatal(err)
	}
	certificate, err := tls.LoadX509KeyPair(*certFile, *keyFile)
	if err != nil {
		log.Fatal(err)
	}
	address, err := net.ResolveUDPAddr("udp", *bind)
	if err != nil {
		log.Fatal(err)
	}
	socket, err := net.ListenUDP("udp", address)
	if err != nil {
		log.Fatal(err)
	}
	var relay masque.Proxy
	mux := http.NewServeMux()
	path, err := url.Parse(*template)
	if err != nil {
		log.Fatal(err)
	}
	mux.HandleFunc(path.Path, func(w http.ResponseWriter, r *http.Request) {
		if *refuse != 0 {
			w.WriteHeader(*refuse)
			return
		}
		request, err := masque.ParseProxyRequest(r, parsed)
		if err != nil {
			status := http.StatusBadRequest
			var parse *masque.ProxyRequestParseError
			if errors.As(err, &parse) {
				status = parse.HTTPStatus
			}
			w.WriteHeader(status)
			return
		}
		if err := relay.Proxy(w, request); err != nil {
			log.Print(err)
		}
	})
	server := http3.Server{TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}}), QUICConfig: quicConfig(), EnableDatagrams: true, Handler: mux}
	say(map[string]any{"event": "listening", "address": socket.LocalAddr().String()})
	go func() {
		for c := range commands() {
			if c.Do == "close" {
				if err := relay.Close(); err != nil {
					log.Print(err)
				}
				say(map[string]any{"event": "closed"})
			}
		}
		os.Exit(0)
	}()
	if err := server.Serve(socket); err != nil {
		log.Fatal(err)
	}
}
