// SPDX-License-Identifier: Apache-2.0

package services

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

var update = flag.Bool("update", false, "write testdata anew")

func nativeEth0() Place { return Place{Interface: "eth0", Mode: "native"} }

// get asks a service, on a connection of its own.
func request(t *testing.T, method, url string, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, got
}

func TestHTTPRoutes(t *testing.T) {
	url := "http://" + serve(t, mustNew(t, "http", Env{Status: NewStatus(&fakeCounters{}), Place: nativeEth0}))
	for _, tt := range []struct {
		method, path string
		status       int
		header       string // name: value
		contains     string
	}{
		{"GET", "/", 200, "Content-Type: text/html; charset=utf-8", "</html>"},
		{"HEAD", "/", 200, "Content-Type: text/html; charset=utf-8", ""},
		{"GET", "/json", 200, "Content-Type: application/json", `"counters":{"packets":{"drop":{"bad_checksum":0,`},
		{"HEAD", "/json", 200, "Content-Type: application/json", ""},
		{"GET", "/json", 200, "Cache-Control: no-store", ""},
		{"GET", "/", 200, "X-Content-Type-Options: nosniff", ""},
		{"GET", "/", 200, "Referrer-Policy: no-referrer", ""},
		{"GET", "/", 200, "Content-Security-Policy: " + contentSecurityPolicy, ""},
		{"GET", "/nothing", 404, "Content-Security-Policy: " + contentSecurityPolicy, ""},
		{"GET", "/json/", 404, "", ""},
		{"POST", "/", 405, "Allow: GET, HEAD", ""},
		{"DELETE", "/json", 405, "Allow: GET, HEAD", ""},
		{"PUT", "/bytes", 405, "Allow: GET, HEAD, POST", ""},
		{"GET", "/bytes?n=0", 200, "Content-Length: 0", ""},
		{"GET", "/bytes?n=100", 200, "Content-Type: application/octet-stream", ""},
		{"HEAD", "/bytes?n=1073741824", 200, "Content-Length: 1073741824", ""},
		{"GET", "/bytes?n=1073741825", 400, "", "0 to 1073741824"},
		{"GET", "/bytes?n=-1", 400, "", "number of bytes"},
		{"GET", "/bytes?n=1e6", 400, "", "number of bytes"},
		{"GET", "/bytes", 400, "", "/bytes?n=1000000"},
	} {
		resp, body := request(t, tt.method, url+tt.path, nil)
		name, value, _ := strings.Cut(tt.header, ": ")
		if resp.StatusCode != tt.status || resp.Header.Get(name) != value || !strings.Contains(string(body), tt.contains) {
			t.Errorf("%s %s: %s, %s: %q\nwant %d, %s, %q in\n%.300s", tt.method, tt.path,
				resp.Status, name, resp.Header.Get(name), tt.status, tt.header, tt.contains, body)
		}
		if tt.method == "HEAD" && len(body) > 0 {
			t.Errorf("HEAD %s: a body of %d bytes", tt.path, len(body))
		}
	}
}

// The names are an interface, and so the whole answer is compared.
func TestJSONIsStable(t *testing.T) {
	src := &fakeCounters{}
	for i := range src.reasons {
		src.reasons[i] = uint64(i)
	}
	src.engine.Open, src.engine.Waiting, src.engine.Opened = 1, 2, 3
	src.engine.SegmentsIn, src.engine.SegmentsOut, src.engine.BytesIn, src.engine.BytesOut = 4, 5, 6, 7
	src.engine.PureAcksOut, src.engine.ResetsOut, src.engine.Retransmits = 8, 9, 10
	report := &Report{
		Time: time.Date(2024, 5, 6, 7, 8, 10, 0, time.UTC), Interface: "eth0", Mode: "native",
		Connection: newConnection(linuxHandshake(), linuxInfo()),
		Rates: newRates([]Sample{
			{SynAcks: 1000.04, Completed: 990, Dropped: 3, BytesIn: 1e6, BytesOut: 2e7, Open: 12},
			{SynAcks: 1001.16, Completed: 991, Dropped: 4, BytesIn: 1e6, BytesOut: 2e7, Open: 13},
		}),
		Counters: newTotals(NewStatus(src).Read()),
	}
	got, err := json.MarshalIndent(report, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/report.json"
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(got, '\n'), want) {
		t.Errorf("/json has changed (go test -update, if that is meant):\n%s", got)
	}
}

func TestJSONOfAClientWithoutOptionsHasNulls(t *testing.T) {
	h := linuxHandshake()
	h.ClientWScale, h.ServerWScale, h.SACK, h.Timestamps, h.ECN, h.HasDuration, h.Duration = -1, -1, false, false, false, false, 0
	text, err := json.Marshal(&Report{Connection: newConnection(h, linuxInfo())})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"client_wscale":null`, `"server_wscale":null`, `"handshake_ms":null`, `"rates":null`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}

func TestSequenceNumbersCountTheSYNAndWrapAround(t *testing.T) {
	h, i := linuxHandshake(), linuxInfo()
	// The classic example: ISN 500, the SYN takes one number, ten bytes follow, 511 comes next.
	if c := newConnection(h, i); c.ClientNext != 511 || c.ServerNext != 3735948560 {
		t.Errorf("next numbers %d and %d, want 511 and 3735948560", c.ClientNext, c.ServerNext)
	}
	h.ClientISN, i.BytesIn = 1<<32-1, 1<<32+5
	if c := newConnection(h, i); c.ClientNext != 5 {
		t.Errorf("next number %d, want 5", c.ClientNext)
	}
}

func TestTheHandshakeIsThatOfTheRequestsConnection(t *testing.T) {
	for _, tt := range []struct {
		name string
		wrap func(net.Conn) net.Conn
		want bool
	}{
		{"an xdptcp connection", func(c net.Conn) net.Conn { return &xdpConn{c, &xdpListener{handshake: linuxHandshake()}} }, true},
		{"one below a wrapper", func(c net.Conn) net.Conn {
			return wrapper{&xdpConn{c, &xdpListener{handshake: linuxHandshake()}}}
		}, true},
		{"a kernel socket", func(c net.Conn) net.Conn { return c }, false},
	} {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := mustNew(t, "http", Env{Place: nativeEth0})
		serveOn(t, s, wrapListener{inner, tt.wrap})
		_, body := request(t, "GET", "http://"+inner.Addr().String()+"/json", nil)
		var report Report
		if err := json.Unmarshal(body, &report); err != nil {
			t.Fatal(err)
		}
		if (report.Connection != nil) != tt.want {
			t.Errorf("%s: %s", tt.name, body)
		}
		if tt.want && (report.Connection.ServerISN != 3735928559 || report.Interface != "eth0") {
			t.Errorf("%s: %s", tt.name, body)
		}
	}
}

type wrapListener struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (l wrapListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(c), nil
}

func TestBytesAreTheSameEachTime(t *testing.T) {
	url := "http://" + serve(t, mustNew(t, "http", Env{}))
	_, all := request(t, "GET", url+"/bytes?n=1000003", nil)
	if len(all) != 1000003 {
		t.Fatalf("%d bytes", len(all))
	}
	// Clients of other languages may check this number.
	const want = "217ab4263eba835c1b1d99fe0d2ba23f"
	if sum := sha256.Sum256(all); *update {
		fmt.Println("SHA-256 of /bytes?n=1000003:", hex.EncodeToString(sum[:]))
	} else if got := hex.EncodeToString(sum[:16]); got != want {
		t.Errorf("SHA-256 starts with %s, want %s", got, want)
	}
	for _, n := range []int{1, 7, 8, 9, transferChunk - 1, transferChunk, transferChunk + 1} {
		if _, some := request(t, "GET", fmt.Sprintf("%s/bytes?n=%d", url, n), nil); !bytes.Equal(some, all[:n]) {
			t.Errorf("%d bytes are not the first of a million", n)
		}
	}
	part := make([]byte, 800)
	fillBytes(part, 80000)
	if !bytes.Equal(part, all[80000:80800]) {
		t.Error("a part made by itself is not the same")
	}
}

func TestPostedBytesAreCountedAndHashed(t *testing.T) {
	url := "http://" + serve(t, mustNew(t, "http", Env{})) + "/bytes"
	random := rand.NewChaCha8([32]byte{1})
	for _, n := range []int{0, 1, 3*transferChunk + 5} {
		body := make([]byte, n)
		_, _ = random.Read(body) // never fails
		// A body without Content-Length comes in chunks.
		for _, r := range []io.Reader{bytes.NewReader(body), io.MultiReader(bytes.NewReader(body))} {
			resp, text := request(t, "POST", url, r)
			sum := sha256.Sum256(body)
			want := fmt.Sprintf(`{"bytes":%d,"sha256":"%x"}`+"\n", n, sum)
			if resp.StatusCode != 200 || string(text) != want {
				t.Errorf("%s: %s, want %s", resp.Status, text, want)
			}
		}
	}
}

func TestTransfersMayTakeLongButNotStall(t *testing.T) {
	for _, tt := range []struct {
		name  string
		pause time.Duration
		whole bool
	}{
		{"a slow client gets all", httpTimeout - time.Second, true},
		{"a client that stops is let go", httpTimeout + time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipeListener()
				serveOn(t, mustNew(t, "http", Env{}), ln)
				c := ln.dial()
				defer c.Close()
				const n = 20 * transferChunk
				if _, err := fmt.Fprintf(c, "GET /bytes?n=%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", n); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil)
				if err != nil {
					t.Fatal(err)
				}
				got, chunk := 0, make([]byte, transferChunk)
				for err == nil {
					time.Sleep(tt.pause)
					var k int
					k, err = io.ReadFull(resp.Body, chunk)
					got += k
				}
				if (got == n) != tt.whole {
					t.Errorf("%d of %d bytes, %v", got, n, err)
				}
			})
		})
	}
	t.Run("an upload that stops is let go", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ln := newPipeListener()
			serveOn(t, mustNew(t, "http", Env{}), ln)
			c := ln.dial()
			defer c.Close()
			start := time.Now()
			if _, err := io.WriteString(c, "POST /bytes HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhello"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != http.StatusBadRequest || time.Since(start) > 2*httpTimeout {
				t.Errorf("%v, error %v after %v", resp, err, time.Since(start))
			}
		})
	})
}

func BenchmarkPage(b *testing.B) {
	src := &fakeCounters{}
	src.reasons[bpf.TxSynAck] = 12345678
	r := &Report{
		Interface: "eth0", Mode: "native", Connection: newConnection(linuxHandshake(), linuxInfo()),
		Rates: newRates(make([]Sample, plotSeconds)), Counters: newTotals(NewStatus(src).Read()),
	}
	for b.Loop() {
		if err := pageTemplate.Execute(io.Discard, newPage(r)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBytes(b *testing.B) {
	buf := make([]byte, transferChunk)
	b.SetBytes(transferChunk)
	for b.Loop() {
		fillBytes(buf, 0)
	}
}
