// SPDX-License-Identifier: Apache-2.0

package services

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxBytes bounds a transfer test, either way.
const maxBytes = 1 << 30

// transferChunk is what is moved between two looks at the deadline.
const transferChunk = 64 << 10

// fillBytes fills b with the test bytes from an offset on, both multiples of 8 (the rest of b is left
// alone). Word i of the stream is a mix of i alone (the finalizer of SplitMix64), so any part of it
// can be made, or checked, without the parts before.
func fillBytes(b []byte, offset int64) {
	for i := uint64(offset / 8); len(b) >= 8; i++ {
		z := (i + 1) * 0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(b, z^z>>31)
		b = b[8:]
	}
}

// getBytes answers GET /bytes?n=N: the first N bytes of the test stream.
func (s *httpService) getBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
	if err != nil || n < 0 || n > maxBytes {
		http.Error(w, fmt.Sprintf("n must be a number of bytes from 0 to %d, as in /bytes?n=1000000", maxBytes), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	if r.Method == http.MethodHead {
		return
	}
	buf := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(buf)
	control := http.NewResponseController(w)
	for sent := int64(0); sent < n; {
		chunk := buf[:min(transferChunk, (n-sent+7)&^7)]
		fillBytes(chunk, sent)
		chunk = chunk[:min(int64(len(chunk)), n-sent)]
		// The client must go on taking; how long the whole takes is its business.
		_ = control.SetWriteDeadline(time.Now().Add(httpTimeout)) // or Write has the error
		if _, err := w.Write(chunk); err != nil {
			s.log.Debug("bytes", "remote", r.RemoteAddr, "err", err)
			return
		}
		sent += int64(len(chunk))
	}
}

// Received is the answer to POST /bytes.
type Received struct {
	Bytes  int64  `json:"bytes"`  // of the request's body
	SHA256 string `json:"sha256"` // of the body, in hexadecimal
}

// postBytes answers POST /bytes: what has arrived.
func (s *httpService) postBytes(w http.ResponseWriter, r *http.Request) {
	buf := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(buf)
	control := http.NewResponseController(w)
	body := http.MaxBytesReader(w, r.Body, maxBytes)
	hash := sha256.New()
	var got Received
	for {
		// Errors show in Read and Write. The answer, also to a body that stalls, has time of its own.
		now := time.Now()
		_ = control.SetReadDeadline(now.Add(httpTimeout))
		_ = control.SetWriteDeadline(now.Add(2 * httpTimeout))
		n, err := body.Read(buf[:])
		got.Bytes += int64(n)
		hash.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			http.Error(w, fmt.Sprintf("more than %d bytes", maxBytes), http.StatusRequestEntityTooLarge)
			return
		}
		if err != nil {
			s.log.Debug("bytes", "remote", r.RemoteAddr, "err", err)
			http.Error(w, "the body did not arrive whole", http.StatusBadRequest)
			return
		}
	}
	got.SHA256 = hex.EncodeToString(hash.Sum(nil))
	s.writeJSON(w, r, got)
}
