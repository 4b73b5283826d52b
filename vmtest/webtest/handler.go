// SPDX-License-Identifier: Apache-2.0

package webtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
)

// A Handler serves what the tests ask for:
//
//	GET  /bytes?n=N&seed=S   N bytes that only this seed gives
//	POST /sum                the body's length and SHA-256
//	POST /refuse             417, with the body unread
//	GET  /forever            zeros until the client has gone
//	GET  /slow               answers when Release says so
//	GET  /echo               101, and from then on whatever comes is sent back
type Handler struct {
	mux http.ServeMux

	Started chan struct{} // a request for /slow has come
	Release chan struct{} // /slow may answer
	Gone    chan error    // what ended an answer to /forever
}

// NewHandler makes a Handler.
func NewHandler() *Handler {
	h := &Handler{Started: make(chan struct{}, 1), Release: make(chan struct{}), Gone: make(chan error, 1)}
	h.mux.HandleFunc("GET /bytes", bytesOf)
	h.mux.HandleFunc("POST /sum", sumOf)
	h.mux.HandleFunc("POST /refuse", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusExpectationFailed) })
	h.mux.HandleFunc("GET /forever", func(w http.ResponseWriter, r *http.Request) {
		zeros := make([]byte, 32<<10)
		for {
			if _, err := w.Write(zeros); err != nil {
				<-r.Context().Done() // or the test ends by its time-out
				h.Gone <- err
				return
			}
		}
	})
	h.mux.HandleFunc("GET /slow", func(w http.ResponseWriter, _ *http.Request) {
		h.Started <- struct{}{}
		<-h.Release
		fmt.Fprint(w, "at last")
	})
	h.mux.HandleFunc("GET /echo", echo)
	return h
}

// ServeHTTP serves.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// Stream gives n bytes that only this seed gives.
func Stream(seed uint64, n int64) io.Reader {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// Sum is the SHA-256 of what is read, and its length.
func Sum(r io.Reader) (string, int64, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

func bytesOf(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	seed, err := strconv.ParseUint(r.FormValue("seed"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	_, _ = io.Copy(w, Stream(seed, n)) // who reads it counts and sums it
}

func sumOf(w http.ResponseWriter, r *http.Request) {
	sum, n, err := Sum(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%d %s", n, sum)
}

func echo(w http.ResponseWriter, _ *http.Request) {
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.Close()
	if _, err := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"); err != nil {
		return
	}
	_, _ = io.Copy(c, buf) // until the client closes its direction
}
