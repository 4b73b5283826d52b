// SPDX-License-Identifier: Apache-2.0

package userspace_test

import (
	"fmt"
	"log"
	"net/http"
	"net/netip"
	"time"

	"github.com/xdptcp/xdptcp/loader"
	"github.com/xdptcp/xdptcp/userspace"
)

func Example() {
	// Everything but the last step: nothing is taken from the kernel yet.
	responder, err := loader.Prepare(loader.Options{
		Interface: "eth0",
		Services:  []loader.Service{{Port: 8080, Action: "hello"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer responder.Close()

	engine, err := userspace.New(responder.EngineConfig())
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close(2 * time.Second)

	listener, err := engine.Listen(netip.AddrPortFrom(netip.Addr{}, 8080))
	if err != nil {
		log.Fatal(err)
	}
	if err := responder.Attach(); err != nil { // from here on XDP answers
		log.Fatal(err)
	}
	log.Print(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello,", r.RemoteAddr)
	})))
}
