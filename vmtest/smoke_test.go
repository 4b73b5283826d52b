package vmtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/loader"
	"github.com/xdptcp/xdptcp/userspace"
	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func TestSmoke(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	var r *loader.Responder
	var e *userspace.Engine
	var ln net.Listener
	err := l.Server.Do(func() (err error) {
		r, err = loader.Prepare(loader.Options{Interface: l.Server.Iface, Services: []loader.Service{{Port: 8080, Action: "http"}}})
		if err != nil {
			return err
		}
		var links []userspace.Link
		for _, s := range r.Sockets() {
			links = append(links, s)
		}
		e, err = userspace.New(userspace.Config{Links: links, Flows: r.FlowTable(), MTU: r.MTU(), PartialChecksums: r.PartialChecksums()})
		if err != nil {
			return err
		}
		ln, err = e.Listen(netip.AddrPortFrom(netip.Addr{}, 8080))
		if err != nil {
			return err
		}
		return r.Attach()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer e.Close(time.Second)
	t.Log("mode", r.Mode())
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		n := 0
		fmt.Sscan(req.URL.Query().Get("n"), &n)
		m, _ := io.Copy(io.Discard, req.Body)
		w.Write(make([]byte, n))
		fmt.Fprintf(w, "hello %d\n", m)
	}))
	cl := &http.Client{Transport: &http.Transport{DialContext: l.Client.Dial}, Timeout: 10 * time.Second}
	get := func(url string) {
		t0 := time.Now()
		resp, err := cl.Get(url)
		if err != nil {
			t.Error(url, err)
		} else {
			n, err := io.Copy(io.Discard, resp.Body)
			t.Log(url, n, err, time.Since(t0))
		}
	}
	get("http://192.0.2.1:8080/")
	get("http://[2001:db8::1]:8080/")
	get("http://192.0.2.1:8080/?n=100000000")
	reasons, _ := r.Reasons()
	for i, n := range reasons {
		if n > 0 {
			v, w := bpf.ReasonLabels(bpf.Reason(i))
			t.Log(v, w, n)
		}
	}
	t.Logf("%+v", e.Stats())
	st, _ := r.Sockets()[0].Stats()
	t.Logf("%+v", st)
	_ = context.Background
}
