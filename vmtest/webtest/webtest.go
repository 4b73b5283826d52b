// SPDX-License-Identifier: Apache-2.0

// Package webtest proves a listener by what stands on it: net/http and crypto/tls, with HTTP/1.1 and HTTP/2. It is to
// a net.Listener what golang.org/x/net/nettest is to a net.Conn.
//
//	webtest.go    the table of the tests, and the server and client that they use
//	handler.go    what the server serves
//	requests.go   the tests
package webtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Host is the name that the server's certificate is for.
const Host = "server.test"

// patience is how long anything may take that should be quick: only a test that fails waits for all of it.
const patience = 30 * time.Second

// A Dial makes a connection to the listener under test.
type Dial func(context.Context) (net.Conn, error)

// TestListener runs all tests, each with a new listener: open makes one, and says how it is reached. It closes what
// it opened before it calls open again.
func TestListener(t *testing.T, open func(*testing.T) (net.Listener, Dial)) {
	for _, p := range []struct {
		name       string
		tls, http2 bool
	}{
		{"HTTP/1.1", false, false},
		{"HTTP/1.1 over TLS 1.3", true, false},
		{"HTTP/2 over TLS 1.3", true, true},
	} {
		for _, test := range []struct {
			name  string
			run   func(*site)
			skip2 bool // HTTP/2 does not have it
		}{
			{"large bodies arrive whole, both ways", largeBodies, false},
			{"one connection serves request after request", keepAlive, false},
			{"many requests at once each get their own answer", manyAtOnce, false},
			{"a client that goes away in the middle ends its request and no other", clientAborts, false},
			{"a body waits for 100 Continue, and is not sent when it is refused", expectContinue, false},
			{"a handler takes the connection over", hijack, true},
			{"Shutdown lets a request finish and takes no other", shutdown, false},
		} {
			if p.http2 && test.skip2 {
				continue
			}
			t.Run(p.name+": "+test.name, func(t *testing.T) {
				ln, dial := open(t)
				s := serve(t, ln, dial, p.tls, p.http2)
				test.run(s)
			})
		}
	}
}

// A site is a running server with a client of its own.
type site struct {
	t       *testing.T
	http2   bool
	server  *http.Server
	served  chan error // what Serve returned
	handler *Handler
	client  *http.Client
	dial    Dial // with TLS, where the site has it
	dials   atomic.Int64
	base    string
}

func serve(t *testing.T, ln net.Listener, dial Dial, secure, http2 bool) *site {
	s := &site{t: t, http2: http2, served: make(chan error, 1), handler: NewHandler(), dial: dial, base: "http://" + Host}
	s.server = &http.Server{Handler: s.handler, ErrorLog: log.New(t.Output(), "", 0)}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			s.dials.Add(1)
			return dial(ctx)
		},
		MaxIdleConnsPerHost: 64, DisableCompression: true, ExpectContinueTimeout: patience,
		Protocols: new(http.Protocols),
	}
	protocol := "http/1.1"
	if http2 {
		protocol = "h2"
	}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	if secure {
		cert, _, pool, err := Certificate()
		if err != nil {
			t.Fatal(err)
		}
		s.base = "https://" + Host
		s.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}}
		s.dial = func(ctx context.Context) (net.Conn, error) {
			c, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			// A copy: the transport changes its own.
			secure := tls.Client(c, &tls.Config{RootCAs: pool, ServerName: Host, NextProtos: []string{protocol}})
			return secure, secure.HandshakeContext(ctx)
		}
	}
	s.client = &http.Client{Transport: transport, Timeout: 2 * patience}
	go func() {
		if secure {
			s.served <- s.server.ServeTLS(ln, "", "")
		} else {
			s.served <- s.server.Serve(ln)
		}
	}()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		s.server.Close()
		select {
		case err := <-s.served:
			if !errors.Is(err, http.ErrServerClosed) {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve does not return after Close")
		}
	})
	return s
}

// Certificate is a self-signed certificate for Host, in three forms: for a server, as PEM, and as a pool of roots.
func Certificate() (tls.Certificate, []byte, *x509.CertPool, error) {
	c, err := certificate()
	return c.tls, c.pem, c.pool, err
}

type issued struct {
	tls  tls.Certificate
	pem  []byte
	pool *x509.CertPool
}

var certificate = sync.OnceValues(func() (c issued, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: Host}, DNSNames: []string{Host}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return c, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return c, err
	}
	c.tls = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	c.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c.pool = x509.NewCertPool()
	c.pool.AddCert(parsed)
	return c, nil
})
