// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/loader"
	"github.com/xdptcp/xdptcp/metrics"
	"github.com/xdptcp/xdptcp/userspace"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
	"github.com/xdptcp/xdptcp/userspace/services"
)

// How long connections and scrapes in progress are given at the end.
const (
	closeGrace   = 2 * time.Second
	metricsGrace = time.Second
	retireGrace  = 250 * time.Millisecond
	lastGrace    = 500 * time.Millisecond
)

type daemonOptions struct {
	loader  loader.Options
	metrics string // address; empty for none
}

// A daemon is a responder with an engine, its services and its metrics. It is the whole of `attach`
// and the server's half of `demo`.
type daemon struct {
	log       *slog.Logger
	opts      daemonOptions
	responder *loader.Responder
	engine    *userspace.Engine
	status    *services.Status
	serving   []services.Service
	metrics   *http.Server
	metricsAt net.Addr
	retired   bool // another daemon has the interface, or soon will

	failed  chan error // a part that ended before it was told to
	cancel  context.CancelFunc
	running sync.WaitGroup
	closing sync.Once
}

// startDaemon starts everything, in the network namespace of the calling thread, and attaches last.
// After an error nothing is left.
func startDaemon(opts daemonOptions, log *slog.Logger) (_ *daemon, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	// Every service and the metrics may fail, and none must wait to tell.
	failed := make(chan error, len(opts.loader.Services)+1)
	d := &daemon{log: log, opts: opts, failed: failed, cancel: cancel}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	var ln net.Listener
	opts.loader.LastCheck = func() (err error) { ln, err = reserveMetrics(opts); return err }
	defer func() {
		if err != nil && ln != nil {
			_ = ln.Close() // nobody has seen it
		}
	}()
	if d.responder, err = loader.Prepare(opts.loader); err != nil {
		return nil, err
	}
	if len(d.responder.Sockets()) > 0 { // with kernel services alone there are none
		if d.engine, err = userspace.New(d.responder.EngineConfig()); err != nil {
			return nil, err
		}
	}
	d.responder.HealthCheck(func() error {
		if ctx.Err() != nil || d.engine == nil {
			return nil // closing, and serving what it has; or nothing to be ill
		}
		return d.engine.Healthy()
	})
	d.responder.OnListsChanged(func(denied func(netip.Addr) bool) {
		if d.engine == nil {
			return
		}
		if n := d.engine.AbortFlows(denied); n > 0 {
			log.Info("connections of clients that are denied now were reset", "connections", n)
		}
	})
	d.status = services.NewStatus(d)
	if err := d.listen(); err != nil {
		return nil, err
	}
	if ln == nil && opts.metrics != "" {
		if ln, err = awaitMetrics(opts.metrics); err != nil {
			return nil, err
		}
	}
	if ln != nil {
		d.serveMetrics(ln)
	}
	if err := d.responder.Attach(); err != nil {
		return nil, err
	}
	d.running.Go(func() { d.status.Run(ctx) })
	return d, nil
}

func (d *daemon) listen() error {
	env := services.Env{Log: d.log, Status: d.status, Place: func() services.Place {
		return services.Place{Interface: d.responder.Interface(), Mode: string(d.responder.Mode())}
	}}
	for _, svc := range d.opts.loader.Services {
		if svc.Action == loader.ActionKernel {
			continue
		}
		ln, err := d.listenFor(svc)
		if err != nil {
			return err
		}
		s, err := services.New(svc.Action, env)
		if err != nil {
			return err
		}
		d.serving = append(d.serving, s)
		d.running.Go(func() {
			if err := s.Serve(ln); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
				d.failed <- fmt.Errorf("service %s: %w", svc, err)
			}
		})
	}
	return nil
}

func (d *daemon) listenFor(svc loader.Service) (*userspace.Listener, error) {
	if svc.Prefix.IsValid() {
		return d.engine.ListenPrefix(svc.Prefix, svc.Port)
	}
	return d.engine.Listen(netip.AddrPortFrom(netip.Addr{}, svc.Port))
}

func (d *daemon) serveMetrics(ln net.Listener) {
	d.metricsAt = ln.Addr()
	d.metrics = &http.Server{Handler: metrics.Handler(d, d.log), ReadHeaderTimeout: 5 * time.Second}
	d.running.Go(func() {
		if err := d.metrics.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			d.failed <- fmt.Errorf("metrics: %w", err)
		}
	})
}

// wait returns when ctx ends, or when another process has taken the interface over or detached this one, or with the
// error of a part that failed.
func (d *daemon) wait(ctx context.Context) error {
	lost := d.responder.Lost()
	var lostQueue <-chan error
	if d.engine != nil {
		lostQueue = d.engine.Lost()
	}
	select {
	case <-ctx.Done():
		return nil
	case why := <-d.responder.Dismissed():
		d.log.Info("the interface is not ours any more: closing all connections", "interface", d.responder.Interface(), "because", why)
		d.retire()
		return nil
	case err := <-d.failed:
		return err
	case err := <-lost:
		return err
	case err := <-lostQueue:
		return fmt.Errorf("interface %s: %w", d.responder.Interface(), err)
	}
}

// retire leaves new connections to a successor. Those that are young get some time for their first request: net/http drops
// what it reads once it shuts down.
func (d *daemon) retire() {
	d.retired = true
	if d.engine == nil {
		return // the kernel has the connections
	}
	d.engine.Retire()
	for end := time.Now().Add(retireGrace); time.Now().Before(end) && d.engine.Stats().Open > 0; {
		time.Sleep(5 * time.Millisecond)
	}
}

// close ends everything: connections get their FIN, the program comes off, those who count end.
func (d *daemon) close() {
	d.closing.Do(func() {
		d.cancel()
		if d.engine != nil {
			grace, cancel := context.WithTimeout(context.Background(), closeGrace)
			var stopping sync.WaitGroup
			for _, s := range d.serving {
				stopping.Go(func() { _ = s.Shutdown(grace) }) // what is left is reset by the engine
			}
			stopping.Wait()
			cancel()
			if d.retired { // the successor's clients wait for our sockets
				d.engine.Close(lastGrace)
			} else {
				d.engine.Close(closeGrace)
			}
		}
		if d.responder != nil {
			d.responder.Detach()
		}
		if d.metrics != nil {
			grace, cancel := context.WithTimeout(context.Background(), metricsGrace)
			defer cancel()
			_ = d.metrics.Shutdown(grace) // the process ends anyway
		}
		d.running.Wait() // the page and the metrics read the responder's maps
		if d.responder != nil {
			d.responder.Close()
		}
	})
}

// readyLine is the one line on stdout that scripts wait for.
func (d *daemon) readyLine() string {
	var list []string
	for _, s := range d.opts.loader.Services {
		list = append(list, s.String())
	}
	line := fmt.Sprintf("ready interface=%s mode=%s queues=%d ", d.responder.Interface(), d.responder.Mode(), len(d.responder.Sockets()))
	if len(d.responder.Sockets()) > 0 {
		line += fmt.Sprintf("zero-copy=%t ", d.zeroCopy())
	}
	line += "services=" + strings.Join(list, ",")
	if d.metricsAt != nil {
		line += fmt.Sprintf(" metrics=http://%s/metrics", d.metricsAt)
	}
	return line
}

// zeroCopy says whether the kernel copies no frame, on any queue.
func (d *daemon) zeroCopy() bool {
	for _, s := range d.responder.Sockets() {
		if !s.ZeroCopy() {
			return false
		}
	}
	return len(d.responder.Sockets()) > 0
}

// Reasons are XDP's counters: metrics.Source and services' page read them.
func (d *daemon) Reasons() ([bpf.ReasonCount]uint64, error) { return d.responder.Reasons() }

// Engine are the engine's counters; zeros without an engine.
func (d *daemon) Engine() (s userspace.Stats) {
	if d.engine != nil {
		s = d.engine.Stats()
	}
	return s
}

// Sockets are the AF_XDP sockets' counters, by queue.
func (d *daemon) Sockets() []afxdp.Stats {
	var list []afxdp.Stats
	for _, s := range d.responder.Sockets() {
		st, err := s.Stats()
		if err != nil {
			d.log.Debug("AF_XDP statistics", "err", err) // closed: what we counted ourselves stands
		}
		list = append(list, st)
	}
	return list
}

// Keys says which of the cookie's keys are in use.
func (d *daemon) Keys() metrics.Keys {
	k := d.responder.Keys()
	return metrics.Keys{Generation: k.Generation, Accepted: k.Accepted, Age: k.Age, Loads: k.Loads, Failures: k.Failures}
}

// Lists are the lists of clients.
func (d *daemon) Lists() (metrics.Lists, bool) {
	l := d.responder.Lists()
	return metrics.Lists{Allowed: l.Allowed, Denied: l.Denied, Failures: l.Failures}, l.Given
}

// About says what runs.
func (d *daemon) About() metrics.About {
	shield, err := d.responder.ShieldUp()
	if err != nil {
		d.log.Debug("reading the shield's state", "err", err)
	}
	return metrics.About{
		Interface: d.responder.Interface(), Mode: string(d.responder.Mode()),
		Queues: len(d.responder.Sockets()), ZeroCopy: d.zeroCopy(), Version: versionString(),
		FlowCapacity: d.responder.Flows(), Lease: d.responder.Lease(), Armed: d.responder.Armed(), ShieldUp: shield,
	}
}
