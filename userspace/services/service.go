// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"
)

// A Service serves connections.
type Service interface {
	// Serve serves the listener's connections until the listener is closed, or Shutdown is called;
	// then it returns nil. It may be called for several listeners at once.
	Serve(net.Listener) error
	// Shutdown closes the listeners and lets connections finish what they are at. When ctx ends
	// first, it closes what is left and returns ctx's error.
	Shutdown(context.Context) error
}

// Env is what a service is given. The zero value will do.
type Env struct {
	Log    *slog.Logger // nil: slog.Default
	Status *Status      // of the page's rates and counters; nil: the page has none
	// Place says where the program is attached. It is asked for each page, since the mode is known
	// late. nil: the page doesn't say.
	Place func() Place
}

// Place is where the XDP program is attached.
type Place struct {
	Interface string // "eth0"
	Mode      string // "native" or "generic"
}

// idleTimeout is how long a connection may be silent, or not take what it is sent.
const idleTimeout = 2 * time.Minute

var makers = map[string]func(Env) Service{
	"http":    newHTTP,
	"echo":    newEcho,
	"discard": newDiscard,
}

// Actions are the names that New knows, sorted.
func Actions() []string { return slices.Sorted(maps.Keys(makers)) }

// New makes the service of an action.
func New(action string, env Env) (Service, error) {
	maker := makers[action]
	if maker == nil {
		return nil, fmt.Errorf("service %q: no such action: there are %s", action, strings.Join(Actions(), ", "))
	}
	if env.Log == nil {
		env.Log = slog.Default()
	}
	if env.Place == nil {
		env.Place = func() Place { return Place{} }
	}
	env.Log = env.Log.With("service", action)
	return maker(env), nil
}
