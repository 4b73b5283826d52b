// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// ackWorkloads are what clients do, one connection each. more is what the engine may have more of pure ACKs than the kernel,
// on a machine that keeps it waiting past its delayed-ACK time-out; it is not a share of the count.
var ackWorkloads = []struct {
	name   string
	units  float64 // what the count is divided by
	unit   string
	more   int
	client func(c *http.Client, url string) error
}{
	{"keep-alive requests", 300, "request", 15, func(c *http.Client, url string) error {
		for range 300 {
			if _, err := fetch(c, url); err != nil {
				return err
			}
		}
		return nil
	}},
	{"upload", 8, "MB received", 15, func(c *http.Client, url string) error {
		resp, err := c.Post(url, "application/octet-stream", bytes.NewReader(make([]byte, 8_000_000)))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}},
	{"download", 8, "MB sent", 15, func(c *http.Client, url string) error {
		b, err := fetch(c, url+"?n=8000000")
		if err == nil && len(b) != 8_000_000 {
			err = fmt.Errorf("%d bytes", len(b))
		}
		return err
	}},
}

// ackServer answers in the same way on every stack: after the whole request, with 100 bytes or n.
func ackServer() http.Handler {
	body := make([]byte, 8_000_000)
	_, _ = rand.Read(body) // never fails
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the client will tell
		}
		n := 100
		if r.URL.Query().Has("n") {
			n = len(body)
		}
		w.Header().Set("Content-Length", fmt.Sprint(n))
		_, _ = w.Write(body[:n])
	})
}

// A segment that only acknowledges is one that could have been spared. The kernel's TCP is the measure: the same server on
// both, the same client, the same interface with the offloads that the kernel gave it.
func TestTheEngineSendsNoMorePureACKsThanTheKernel(t *testing.T) {
	p := newInProcess(t, 0)
	f := families(p.lab)[0]
	kernel, err := p.lab.Server.Listen("tcp", f.addr(9090))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []net.Listener{p.listener, kernel} {
		s := &http.Server{Handler: ackServer()}
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
	}
	for _, w := range ackWorkloads {
		t.Run(w.name, func(t *testing.T) {
			count := func(port uint16) int {
				tap := record(t, p.lab)
				c := httpClient(t, p.lab, patience)
				c.Transport.(*http.Transport).MaxConnsPerHost = 1
				if err := w.client(c, fmt.Sprintf("http://%s/", f.addr(port))); err != nil {
					t.Fatal(err)
				}
				c.CloseIdleConnections()
				pure := 0
				for _, s := range tap.until("both FINs acknowledged", lastAck()) {
					if s.outgoing && s.flags&flagFIN != 0 {
						break
					}
					if !s.outgoing && s.pureAck() {
						pure++
					}
				}
				return pure
			}
			engine, kernel := count(8080), count(9090)
			t.Logf("pure ACKs: engine %d (%.3f per %s), kernel %d (%.3f)", engine, float64(engine)/w.units, w.unit, kernel, float64(kernel)/w.units)
			if engine > kernel+w.more {
				t.Errorf("the engine sent %d pure ACKs, the kernel %d; %d more would do", engine, kernel, w.more)
			}
		})
	}
}
