package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

func flowEvent(kind audit.Kind, id uint64, workload string) *audit.Event {
	return &audit.Event{
		Kind: kind, Flow: id, Verdict: "allow", Workload: audit.Workload{Name: workload},
		Dst: audit.Destination{IP: netip.MustParseAddr("203.0.113.1"), Port: 443, Host: "a.example"},
	}
}

func TestFollowFlows(t *testing.T) {
	r := start(t)
	c := r.client(t)
	r.backend.set(func() {
		r.backend.flowList = []Flow{
			{ID: 1, State: FlowOpen, Verdict: "allow", Workload: FlowWorkload{Name: "w"}},
			{ID: 2, State: FlowOpen, Verdict: "allow", Workload: FlowWorkload{Name: "other"}},
		}
	})
	list, err := c.Flows(context.Background(), &audit.Filter{Workloads: []string{"w*"}})
	if err != nil || len(list) != 1 || list[0].ID != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	var got []string
	enough := errors.New("enough")
	err = c.FollowFlows(context.Background(), &audit.Filter{Workloads: []string{"w"}}, func(f *Flow) error {
		if len(got) == 0 { // the stream is established
			r.backend.log.Record(flowEvent(audit.FlowOpen, 1, "w")) // known already
			r.backend.log.Record(flowEvent(audit.FlowOpen, 3, "w"))
			r.backend.log.Record(flowEvent(audit.Exchange, 3, "w"))
			r.backend.log.Record(flowEvent(audit.FlowClose, 2, "other"))
			r.backend.log.Record(flowEvent(audit.FlowClose, 1, "w"))
		}
		got = append(got, fmt.Sprint(f.ID, " ", f.State))
		if len(got) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(got, ", ") != "1 open, 3 open, 1 closed" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTail(t *testing.T) {
	r := start(t)
	c := r.client(t)
	log := r.backend.log
	for i := range 20 {
		e := flowEvent(audit.Exchange, uint64(i), "w")
		if i%2 == 1 {
			e.Verdict = "deny"
		}
		log.Record(e)
	}
	eventually(t, "written", func() bool { return log.Stats().Sinks[0].QueueEvents == 0 })
	deny := &audit.Filter{Verdicts: []string{"deny"}}
	var got []string
	eventually(t, "the last lines come", func() bool {
		got = nil
		err := c.Tail(context.Background(), deny, 3, false, func(line []byte, e *audit.Event) error {
			if !json.Valid(line) || e.Hash == "" {
				t.Errorf("line %s", line)
			}
			got = append(got, fmt.Sprint(e.Flow))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(got, " ") == "15 17 19"
	})
	// And follow: what does not pass the filter is not seen.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	got = nil
	enough := errors.New("enough")
	err := c.Tail(ctx, deny, 1, true, func(_ []byte, e *audit.Event) error {
		got = append(got, fmt.Sprint(e.Flow))
		if len(got) == 2 {
			return enough
		}
		log.Record(flowEvent(audit.Exchange, 100, "w"))
		e.Flow = 101
		e.ID = ""
		log.Record(e)
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(got, " ") != "19 101" {
		t.Errorf("%v, %v", got, err)
	}
	eventually(t, "the subscriptions are gone", func() bool { return log.Stats().Followers == 0 })
}

// TestClientThatDoesNotRead: it is let go after the write timeout, and costs the
// log nothing.
func TestClientThatDoesNotRead(t *testing.T) {
	r := start(t, func(_ *Options, s *Server) {
		if s != nil {
			s.streamTimeout = 200 * time.Millisecond
		}
	})
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /v1/tail?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	log := r.backend.log
	eventually(t, "it follows", func() bool { return log.Stats().Followers == 1 })
	eventually(t, "it is let go", func() bool {
		// No more than the writer gets to: a queue that we have filled ourselves
		// would lose events as well.
		if log.Stats().Sinks[0].QueueEvents > 1000 {
			return false
		}
		for range 100 {
			log.Record(&audit.Event{Kind: audit.Exchange, Message: strings.Repeat("x", 4000)})
		}
		return log.Stats().Followers == 0
	})
	if s := log.Stats().Sinks[0]; s.Lost != 0 {
		t.Errorf("%d events were lost", s.Lost)
	}
}

// TestClientThatGoesAway is noticed without an event to send.
func TestClientThatGoesAway(t *testing.T) {
	r := start(t)
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "GET /v1/tail?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	log := r.backend.log
	eventually(t, "it follows", func() bool { return log.Stats().Followers == 1 })
	conn.Close()
	eventually(t, "it is gone", func() bool { return log.Stats().Followers == 0 })
}

func TestHeartbeat(t *testing.T) {
	r := start(t, func(_ *Options, s *Server) {
		if s != nil {
			s.heartbeat = 10 * time.Millisecond
		}
	})
	c := r.client(t)
	response, err := c.send(context.Background(), http.MethodGet, pathTail, map[string][]string{"follow": {"1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if line, err := bufio.NewReader(response.Body).ReadString('\n'); line != "\n" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
}

// TestPlacesAreBounded: a user who opens all connections that he can leaves
// root's free.
func TestPlacesAreBounded(t *testing.T) {
	l := newPeerListener(nil, nil)
	admit := func(uid uint32, n int) (admitted int) {
		for range n {
			if l.enter(uid) == nil {
				admitted++
			}
		}
		return admitted
	}
	if n := admit(1000, 100); n != maxPerUID {
		t.Errorf("one uid gets %d", n)
	}
	others := maxPerUID
	for uid := range uint32(10) {
		others += admit(2000+uid, 100)
	}
	if others != maxOthers {
		t.Errorf("all uids get %d", others)
	}
	if n := admit(0, 100); n != maxConns-maxOthers {
		t.Errorf("root gets %d", n)
	}
	l.exit(1000)
	if n := admit(0, 2) + admit(1000, 2); n != 1 {
		t.Errorf("into one free place get %d", n)
	}
	for range maxPerUID - 1 {
		l.exit(1000)
	}
	if _, kept := l.uids[1000]; kept {
		t.Error("a uid without connections is remembered")
	}
}
