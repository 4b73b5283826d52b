// SPDX-License-Identifier: Apache-2.0

package services

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// httpTimeout bounds a request's reading and its answer's writing; /bytes moves it on as long
	// as bytes flow.
	httpTimeout    = 30 * time.Second
	headerTimeout  = 10 * time.Second
	maxHeaderBytes = 16 << 10
)

// An httpService serves the status page, the same as JSON, and bytes for transfer tests.
type httpService struct {
	log    *slog.Logger
	status *Status // may be nil
	place  func() Place
	server http.Server
}

func newHTTP(env Env) Service {
	s := &httpService{log: env.Log, status: env.Status, place: env.Place}
	s.server = http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       httpTimeout,
		WriteTimeout:      httpTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		// What net/http logs are clients' mistakes, one line each: a flood of them must not fill a disk.
		ErrorLog: slog.NewLogLogger(env.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// connKey is the context's key of a request's net.Conn.
type connKey struct{}

func (s *httpService) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.getPage)
	mux.HandleFunc("GET /json", s.getJSON)
	mux.HandleFunc("GET /bytes", s.getBytes)
	mux.HandleFunc("POST /bytes", s.postBytes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

// Serve implements Service.
func (s *httpService) Serve(ln net.Listener) error {
	err := s.server.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Shutdown implements Service.
func (s *httpService) Shutdown(ctx context.Context) error {
	err := s.server.Shutdown(ctx)
	if err != nil {
		s.server.Close() // its error could only be about listeners that are closed already
	}
	return err
}

func (s *httpService) getPage(w http.ResponseWriter, r *http.Request) {
	var page bytes.Buffer
	if err := pageTemplate.Execute(&page, newPage(s.report(r))); err != nil {
		s.log.Error("status page", "err", err)
		http.Error(w, "the page could not be made; the log says why", http.StatusInternalServerError)
		return
	}
	s.write(w, r, "text/html; charset=utf-8", page.Bytes())
}

func (s *httpService) getJSON(w http.ResponseWriter, r *http.Request) {
	s.writeJSON(w, r, s.report(r))
}

func (s *httpService) writeJSON(w http.ResponseWriter, r *http.Request, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		s.log.Error("json", "err", err)
		http.Error(w, "the answer could not be made; the log says why", http.StatusInternalServerError)
		return
	}
	s.write(w, r, "application/json", append(body, '\n'))
}

func (s *httpService) write(w http.ResponseWriter, r *http.Request, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	if _, err := w.Write(body); err != nil {
		s.log.Debug("write", "remote", r.RemoteAddr, "err", err)
	}
}
