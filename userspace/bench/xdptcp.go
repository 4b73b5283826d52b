// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"reflect"

	"github.com/xdptcp/xdptcp/loader"
	"github.com/xdptcp/xdptcp/userspace"
)

func openXdptcp(at place) (*stack, error) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	opts := loader.Options{Interface: at.iface, Mode: loader.Native, Log: log}
	for _, port := range ports {
		opts.Services = append(opts.Services, loader.Service{Port: port, Action: "bench"})
	}
	responder, err := loader.Prepare(opts)
	if err != nil {
		return nil, err
	}
	engine, err := userspace.New(responder.EngineConfig())
	if err != nil {
		responder.Close()
		return nil, err
	}
	return &stack{
		listen: func(port uint16) (net.Listener, error) {
			return engine.Listen(netip.AddrPortFrom(netip.Addr{}, port))
		},
		counters: func() map[string]uint64 {
			m := make(map[string]uint64)
			count(m, "engine.", engine.Stats())
			for _, s := range responder.Sockets() {
				if st, err := s.Stats(); err == nil {
					count(m, "socket.", st)
				}
			}
			return m
		},
		ready: responder.Attach,
		close: func() {
			engine.Close(0)
			responder.Close()
		},
	}, nil
}

// count adds the counters of a struct to m.
func count(m map[string]uint64, prefix string, stats any) {
	v := reflect.ValueOf(stats)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Uint64 {
			m[prefix+v.Type().Field(i).Name] += f.Uint()
		}
	}
}
