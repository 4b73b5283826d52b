// SPDX-License-Identifier: Apache-2.0

package webtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// get fetches n bytes and compares them with what they must be.
func (s *site) get(seed uint64, n int64) error {
	resp, err := s.client.Get(fmt.Sprintf("%s/bytes?n=%d&seed=%d", s.base, n, seed))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if want := 1 + btoi(s.http2); resp.StatusCode != http.StatusOK || resp.ProtoMajor != want {
		return fmt.Errorf("GET: %s %s, want 200 and HTTP/%d", resp.Proto, resp.Status, want)
	}
	got, length, err := Sum(resp.Body)
	if want, _, _ := Sum(Stream(seed, n)); err != nil || length != n || got != want {
		return fmt.Errorf("GET: %d of %d bytes with sum %s, want %s: %w", length, n, got, want, errors.Join(err, errWrong))
	}
	return nil
}

var errWrong = errors.New("not what was sent")

// post sends n bytes and compares what the server says it has got.
func (s *site) post(seed uint64, n int64) error {
	req, err := http.NewRequest(http.MethodPost, s.base+"/sum", Stream(seed, n))
	if err != nil {
		return err
	}
	req.ContentLength = n
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	sum, _, _ := Sum(Stream(seed, n))
	if want := fmt.Sprintf("%d %s", n, sum); err != nil || string(got) != want {
		return fmt.Errorf("POST: the server has %q, %w; want %q", got, errors.Join(err, errWrong), want)
	}
	return nil
}

func largeBodies(s *site) {
	const size = 2_000_000
	var both sync.WaitGroup
	for i, run := range []func(uint64, int64) error{s.get, s.post, s.get, s.post} {
		both.Go(func() {
			if err := run(uint64(i), size+int64(i)); err != nil {
				s.t.Error(err)
			}
		})
	}
	both.Wait()
}

func keepAlive(s *site) {
	const requests = 50
	for i := range requests {
		if err := errors.Join(s.get(uint64(i), int64(i*97)), s.post(uint64(i), int64(i*97))); err != nil {
			s.t.Fatal(err)
		}
	}
	if n := s.dials.Load(); n != 1 {
		s.t.Errorf("%d connections for %d requests, want 1", n, 2*requests)
	}
}

func manyAtOnce(s *site) {
	const width, each = 40, 2
	if err := s.get(0, 1); err != nil { // so that with HTTP/2 there is a connection to share
		s.t.Fatal(err)
	}
	var running sync.WaitGroup
	for i := range width {
		running.Go(func() {
			for k := range each {
				seed, n := uint64(i*each+k), int64(20_000+i*1000+k)
				if err := errors.Join(s.get(seed, n), s.post(seed, n)); err != nil {
					s.t.Errorf("stream %d, request %d: %v", i, k, err)
				}
			}
		})
	}
	running.Wait()
	if n := s.dials.Load(); s.http2 && n != 1 {
		s.t.Errorf("%d connections for the streams of one", n)
	}
}

func clientAborts(s *site) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/forever", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 3_000_000); err != nil {
		s.t.Fatal(err)
	}
	other := make(chan error, 1)
	go func() { other <- s.get(1, 2_000_000) }()
	cancel()
	select {
	case err := <-s.handler.Gone:
		if err == nil {
			s.t.Error("the answer ended without an error")
		}
	case <-time.After(patience):
		s.t.Error("the handler writes on, though its client has gone")
	}
	if err := <-other; err != nil {
		s.t.Errorf("another request: %v", err)
	}
	if err := s.get(2, 1000); err != nil {
		s.t.Errorf("a later request: %v", err)
	}
}

// A counted body knows whether it was read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	return n, err
}

func expectContinue(s *site) {
	for _, c := range []struct {
		path   string
		status int
		body   bool // is sent
	}{
		{"/sum", http.StatusOK, true},
		{"/refuse", http.StatusExpectationFailed, false},
	} {
		const size = 500_000
		var read atomic.Int64
		continued := atomic.Bool{}
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got100Continue: func() {
			continued.Store(true)
			if n := read.Load(); n != 0 {
				s.t.Errorf("%s: %d bytes of the body went before 100 Continue came", c.path, n)
			}
		}})
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+c.path, counted{Stream(3, size), &read})
		if err != nil {
			s.t.Fatal(err)
		}
		req.ContentLength = size
		req.Header.Set("Expect", "100-continue")
		resp, err := s.client.Do(req)
		if err != nil {
			s.t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || continued.Load() != c.body {
			s.t.Errorf("%s: %s, 100 Continue: %t, %v; want %d, %t", c.path, resp.Status, continued.Load(), err, c.status, c.body)
		}
		sum, _, _ := Sum(Stream(3, size))
		if want := fmt.Sprintf("%d %s", size, sum); c.body && string(answer) != want {
			s.t.Errorf("%s: %q, want %q", c.path, answer, want)
		}
		if !c.body && read.Load() > 0 {
			s.t.Errorf("%s: %d bytes of the body were sent all the same", c.path, read.Load())
		}
	}
}

func hijack(s *site) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := s.dial(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	// The first bytes of the new protocol come with the request.
	if _, err := io.WriteString(c, "GET /echo HTTP/1.1\r\nHost: "+Host+"\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly "); err != nil {
		s.t.Fatal(err)
	}
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		s.t.Fatalf("%s, want 101", resp.Status)
	}
	const size = 1_000_000
	want := new(bytes.Buffer)
	want.WriteString("early ")
	if _, err := io.Copy(want, Stream(4, size)); err != nil {
		s.t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, Stream(4, size))
		sent <- errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite())
	}()
	got, err := io.ReadAll(in)
	if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(got, want.Bytes()) {
		s.t.Errorf("%d of %d bytes came back, or other ones: %v", len(got), want.Len(), err)
	}
}

func shutdown(s *site) {
	answered := make(chan error, 1)
	go func() {
		resp, err := s.client.Get(s.base + "/slow")
		if err == nil {
			var b []byte
			if b, err = io.ReadAll(resp.Body); err == nil && string(b) != "at last" {
				err = fmt.Errorf("the answer is %q", b)
			}
			resp.Body.Close()
		}
		answered <- err
	}()
	select {
	case <-s.handler.Started:
	case err := <-answered:
		s.t.Fatalf("the request: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- s.server.Shutdown(ctx) }()
	err := <-s.served // it returns at once; the request is still there
	if !errors.Is(err, http.ErrServerClosed) {
		s.t.Errorf("Serve: %v", err)
	}
	s.served <- err // the site looks for it too
	select {
	case err := <-down:
		s.t.Fatalf("Shutdown did not wait for the request: %v", err)
	default:
	}
	refused := func() error {
		c, err := s.dial(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience)) // Read would tell
		_, err = c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		return err
	}()
	if timeout, ok := errors.AsType[net.Error](refused); refused == nil || ok && timeout.Timeout() {
		s.t.Errorf("a connection after Shutdown: %v, want one that is refused", refused)
	}
	close(s.handler.Release)
	if err := <-answered; err != nil {
		s.t.Errorf("the request that was there before: %v", err)
	}
	if err := <-down; err != nil {
		s.t.Errorf("Shutdown: %v", err)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
