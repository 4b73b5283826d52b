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

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// ackWorkloads are what clients do, one connection each, and how often. How many frames come at once is the scheduler's choice and
// differs from run to run, so the sums are compared, and the engine's may be more by a quarter and some acknowledgments
// that a busy machine had wait past the delayed-ACK time-out.
const (
	ackTolerance = 1.25
	ackStalls    = 15
)

var ackWorkloads = []struct {
	name   string
	rounds int
	units  float64 // of a round: what the count is divided by
	unit   string
	client func(c *http.Client, url string) error
}{
	{"keep-alive requests", 1, 300, "request", func(c *http.Client, url string) error {
		for range 300 {
			if _, err := fetch(c, url); err != nil {
				return err
			}
		}
		return nil
	}},
	{"upload", 6, 8, "MB received", func(c *http.Client, url string) error {
		resp, err := c.Post(url, "application/octet-stream", bytes.NewReader(make([]byte, 8_000_000)))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}},
	{"download", 1, 8, "MB sent", func(c *http.Client, url string) error {
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
// both, the same client, the same wire, without offloads: each frame is one segment to both.
func TestTheEngineSendsNoMorePureACKsThanTheKernel(t *testing.T) {
	p := newInProcess(t, 0)
	f := families(p.lab)[0]
	kernel, err := p.lab.Server.Listen("tcp", f.addr(9090))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []*lab.Host{p.lab.Client, p.lab.Server} {
		if err := h.Offload(false); err != nil {
			t.Fatal(err)
		}
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
			var engine, kernel int
			for range w.rounds {
				engine += count(8080)
				kernel += count(9090)
			}
			units := float64(w.rounds) * w.units
			t.Logf("pure ACKs: engine %d (%.3f per %s), kernel %d (%.3f)", engine, float64(engine)/units, w.unit, kernel, float64(kernel)/units)
			if float64(engine) > ackTolerance*float64(kernel)+ackStalls {
				t.Errorf("the engine sent %d pure ACKs, the kernel %d", engine, kernel)
			}
		})
	}
}
