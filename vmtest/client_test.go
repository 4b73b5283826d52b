// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// A family is one of the two internet protocols of a lab.
type family struct {
	name           string
	server, client netip.Addr
}

func families(l *lab.Lab) []family {
	return []family{
		{"IPv4", l.Server.Addr4, l.Client.Addr4},
		{"IPv6", l.Server.Addr6, l.Client.Addr6},
	}
}

func (f family) addr(port uint16) string { return f.serverPort(port).String() }

func (f family) serverPort(port uint16) netip.AddrPort { return netip.AddrPortFrom(f.server, port) }

func (f family) from(port uint16) netip.AddrPort { return netip.AddrPortFrom(f.client, port) }

func (f family) url(path string) string { return "http://" + f.addr(8080) + path }

// httpClient makes its connections from the lab's client. Every request has a limit in time, so that
// a connection that hangs fails its test.
func httpClient(t *testing.T, l *lab.Lab, limit time.Duration) *http.Client {
	tr := &http.Transport{DialContext: l.Client.Dial, MaxIdleConnsPerHost: 256, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: limit}
}

// fetch gets a page, and insists on status 200.
func fetch(c *http.Client, url string) ([]byte, error) {
	resp, err := c.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: after %d bytes: %w", url, len(body), err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return body, nil
}

// dial connects from the client, for up to the test's patience, and closes at the test's end.
func dial(t *testing.T, l *lab.Lab, addr string) *net.TCPConn {
	t.Helper()
	c, err := dialFrom(l, netip.AddrPort{}, addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// dialFrom connects from an address and port of the client's; zero: any.
func dialFrom(l *lab.Lab, from netip.AddrPort, addr string, limit time.Duration) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	d := &net.Dialer{}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
		d.Control = reuseAddr
	}
	c, err := l.Client.DialWith(ctx, d, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(3 * patience)) // it is open: this can't fail
	return c.(*net.TCPConn), nil
}

// payload is n bytes that only this seed gives.
func payload(seed uint64, n int) []byte {
	b := make([]byte, n+8)
	r := rand.NewPCG(seed, 0x9e3779b97f4a7c15)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b[:n]
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// stream is what GET /bytes sends: word i is the finalizer of SplitMix64 of i+1.
type stream struct {
	word uint64
	rest []byte // of the last word
}

func (s *stream) Read(b []byte) (int, error) {
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	for n < len(b) {
		s.word++
		z := s.word * 0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		if len(b)-n >= 8 {
			binary.LittleEndian.PutUint64(b[n:], z)
			n += 8
			continue
		}
		s.rest = binary.LittleEndian.AppendUint64(nil, z)
		k := copy(b[n:], s.rest)
		s.rest, n = s.rest[k:], n+k
	}
	return n, nil
}

// streamSum is the SHA-256 of the stream's first n bytes.
func streamSum(n int64) string {
	sum, known := streamSums.Load(n)
	if !known {
		h := sha256.New()
		// Neither end can fail. The buffer is aligned, which the stream is quick with.
		_, _ = io.CopyBuffer(h, struct{ io.Reader }{io.LimitReader(new(stream), n)}, make([]byte, 64<<10))
		sum = hex.EncodeToString(h.Sum(nil))
		streamSums.Store(n, sum)
	}
	return sum.(string)
}

var streamSums sync.Map // by n

// download fetches n bytes and compares their sum with what it must be.
func download(c *http.Client, f family, n int64) error {
	resp, err := c.Get(f.url("/bytes?n=" + strconv.FormatInt(n, 10)))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength != n {
		return fmt.Errorf("GET /bytes?n=%d: %s, Content-Length %d", n, resp.Status, resp.ContentLength)
	}
	h := sha256.New()
	got, err := io.Copy(h, resp.Body)
	if err != nil {
		return fmt.Errorf("GET /bytes?n=%d: after %d bytes: %w", n, got, err)
	}
	if hash := hex.EncodeToString(h.Sum(nil)); got != n || hash != streamSum(n) {
		return fmt.Errorf("GET /bytes?n=%d: %d bytes with sum %s, want %s", n, got, hash, streamSum(n))
	}
	return nil
}

// upload sends b and compares what the server says it has got.
func upload(c *http.Client, f family, b []byte) error {
	resp, err := c.Post(f.url("/bytes"), "application/octet-stream", bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var got struct {
		Bytes  int64  `json:"bytes"`
		SHA256 string `json:"sha256"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		return fmt.Errorf("POST /bytes of %d: %s: %w", len(b), resp.Status, err)
	}
	if got.Bytes != int64(len(b)) || got.SHA256 != sum(b) {
		return fmt.Errorf("POST /bytes: the server has %d bytes with sum %s, want %d with %s", got.Bytes, got.SHA256, len(b), sum(b))
	}
	return nil
}

// echo sends b and reads it back at the same time.
func echo(c net.Conn, b []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		sent <- err
	}()
	got := make([]byte, len(b))
	if n, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("echo: %d of %d bytes came back: %w", n, len(b), err)
	}
	if err := <-sent; err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return fmt.Errorf("echo: other bytes came back than were sent (%d)", len(b))
	}
	return nil
}

// all runs f for 0 … n-1, at most width at a time, and returns the first error.
func all(n, width int, f func(i int) error) error {
	work, failed := make(chan int), make(chan error, width)
	for range width {
		go func() {
			var err error
			for i := range work {
				if err == nil {
					if err = f(i); err != nil {
						err = fmt.Errorf("number %d: %w", i, err)
					}
				}
			}
			failed <- err
		}()
	}
	for i := range n {
		work <- i
	}
	close(work)
	var first error
	for range width {
		if err := <-failed; first == nil {
			first = err
		}
	}
	return first
}

// abort closes a client's connection with a RST.
func abort(c *net.TCPConn) error {
	if err := c.SetLinger(0); err != nil {
		return err
	}
	return c.Close()
}

func reuseAddr(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }); e != nil {
		return e
	}
	return err
}

func reusePort(_, _ string, c syscall.RawConn) error {
	return setOption(c, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// maxSegment makes a client offer this MSS.
func maxSegment(mss int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error { return setOption(c, unix.SOL_TCP, unix.TCP_MAXSEG, mss) }
}

func setOption(c syscall.RawConn, level, name, value int) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }); e != nil {
		return e
	}
	return err
}
