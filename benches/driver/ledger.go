package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
)

// ledger is what this side and the target counted in the whole run, warm-up included. benches/ledger.py puts the
// gateway's counters between them: every datagram has to be somewhere.
type ledger struct {
	Written           int64 `json:"written"`
	FramesSent        int64 `json:"frames_sent"`
	PacketsSent       int64 `json:"packets_sent"`
	FramesReceived    int64 `json:"frames_received"`
	PacketsReceived   int64 `json:"packets_received"`
	PacketsDropped    int64 `json:"packets_dropped"`
	Payloads          int64 `json:"payloads"`
	SocketDrops       int64 `json:"socket_drops"`
	TargetReceived    int64 `json:"target_received"`
	TargetSent        int64 `json:"target_sent"`
	TargetSendDropped int64 `json:"target_send_dropped"`
}

var framesSent, packetsSent, framesReceived, packetsReceived, packetsDropped atomic.Int64

// frameCounter counts DATAGRAM frames where quic-go reports them: it drops datagrams that nobody reads in time without
// counting them, but not before this.
type frameCounter struct{}

func (c frameCounter) AddProducer() qlogwriter.Recorder { return c }
func (frameCounter) SupportsSchemas(string) bool        { return false }
func (frameCounter) Close() error                       { return nil }

func (frameCounter) RecordEvent(event qlogwriter.Event) {
	switch event := event.(type) {
	case qlog.PacketSent:
		packetsSent.Add(1)
		framesSent.Add(datagramFrames(event.Frames))
	case qlog.PacketReceived:
		packetsReceived.Add(1)
		framesReceived.Add(datagramFrames(event.Frames))
	case qlog.PacketDropped: // unread, because too many waited
		packetsDropped.Add(1)
	}
}

func datagramFrames(frames []qlog.Frame) (n int64) {
	for _, frame := range frames {
		if _, ok := frame.Frame.(*qlog.DatagramFrame); ok {
			n++
		}
	}
	return n
}

// socketDrops is what the kernel dropped because sockets at these ports were full.
func socketDrops(ports []int) (sum int64) {
	for _, table := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		text, _ := os.ReadFile(table)
		for _, line := range strings.Split(string(text), "\n") {
			fields := strings.Fields(line)
			if len(fields) < 13 || !strings.Contains(fields[1], ":") {
				continue
			}
			port, err := strconv.ParseInt(fields[1][strings.LastIndex(fields[1], ":")+1:], 16, 32)
			if err == nil && slices.Contains(ports, int(port)) {
				drops, _ := strconv.ParseInt(fields[12], 10, 64)
				sum += drops
			}
		}
	}
	return sum
}

// slab is the kernel's memory for objects of all kinds, in KiB: sockets are among them.
func slab() (kib int64) {
	text, _ := os.ReadFile("/proc/meminfo")
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "Slab:"); ok {
			fmt.Sscan(rest, &kib)
		}
	}
	return kib
}
