// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
)

// queuePatience is how long a predecessor may take to close its connections and its sockets.
const queuePatience = 15 * time.Second

// findPredecessor gets hold of the xdptcp that is on the interface, if this one may take its place. Whoever is there and may
// not be replaced stays.
func (r *Responder) findPredecessor() error {
	a, err := findAttachedTo(r.dev.index)
	if errors.Is(err, ErrNotAttached) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		if r.before == nil {
			a.close()
		}
	}()
	if err := a.watch(); err != nil {
		return err
	}
	if err := r.mayReplace(a); err != nil {
		return err
	}
	r.before, err = a.take(r.dev.index)
	return err
}

func (r *Responder) mayReplace(a *attached) error {
	if !a.living { // packets pass to the kernel: there is nothing to lose
		return nil
	}
	if !r.opts.Replace {
		return fmt.Errorf("interface %q already has an xdptcp, with a living daemon (pid %d): take its place with --replace, or stop it first",
			r.dev.name, a.control.Pid)
	}
	if r.opts.Mode != Auto && r.opts.Mode != a.mode {
		return fmt.Errorf("interface %q runs XDP in %s mode, and replacing the program can't change that: leave --mode %s out, or detach first: xdptcp detach %s",
			r.dev.name, a.mode, r.opts.Mode, r.dev.name)
	}
	return nil
}

// sharedMaps are the flow tables and their sketch of the predecessor, if they are as this program wants them.
func (r *Responder) sharedMaps(spec *ebpf.CollectionSpec) map[string]*ebpf.Map {
	if r.before == nil {
		return nil
	}
	maps := map[string]*ebpf.Map{}
	for _, name := range []string{"flows4", "flows6", "sketch"} {
		m := r.before.maps[name]
		if m == nil || spec.Maps[name].Compatible(m) != nil {
			r.log.Info("the flow tables are made anew: those of the program before are of another size or form", "interface", r.dev.name)
			return nil
		}
		maps[name] = m
	}
	return maps
}

// armedBits are the services whose SYNs are answered from the start: all, or none if so told; but those that the operator
// has disarmed before stay so.
func (r *Responder) armedBits() uint64 {
	if r.opts.Disarmed {
		return 0
	}
	armed := ^uint64(0)
	if r.before == nil {
		return armed
	}
	theirs, err := r.before.services()
	if err != nil {
		r.log.Warn("which services were disarmed before can't be read: all are armed", "interface", r.dev.name, "err", err)
		return armed
	}
	for i, svc := range r.opts.Services {
		for j, text := range theirs {
			if before, err := ParseService(text); err == nil && before.Where() == svc.Where() && !r.before.armed(j) {
				armed &^= 1 << i
				r.log.Info("the service stays disarmed, as it was", "service", svc.String())
			}
		}
	}
	return armed
}

// succeed sends the predecessor home. From here on there is no way back for it; its program goes on answering SYNs until
// takeOver, and what clients send then is not lost for good: the flow table has it, and they repeat it.
func (r *Responder) succeed() {
	if r.before == nil {
		return
	}
	if r.before.living {
		r.log.Info("taking the place of the daemon before; it closes its connections now", "interface", r.dev.name, "pid", r.before.control.Pid)
	} else {
		r.log.Info("taking the place of a daemon that is dead", "interface", r.dev.name, "pid", r.before.control.Pid,
			"for", r.before.deadFor().Round(time.Millisecond))
	}
	r.before.dismiss(r.owner, os.Getpid())
}

// awaitSockets opens the AF_XDP sockets as soon as the predecessor has closed its own.
func (r *Responder) awaitSockets() (sockets []*afxdp.Socket, err error) {
	begin := time.Now()
	told := begin
	for {
		sockets, err = r.dev.openSockets()
		waited := time.Since(begin)
		if r.before == nil || !errors.Is(err, unix.EBUSY) {
			return sockets, err
		}
		if waited > queuePatience {
			return nil, fmt.Errorf("after %v the daemon before (pid %d) still has its sockets, and they serve nobody; end it with: kill -9 %d; then attach again: %w",
				waited.Round(time.Second), r.before.control.Pid, r.before.control.Pid, err)
		}
		if time.Since(told) > time.Second {
			told = time.Now()
			r.log.Info("waiting for the daemon before to close its sockets", "pid", r.before.control.Pid, "for", waited.Round(time.Second))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// takeOver puts the new program in the old one's place: of all packets each is seen by one of them.
func (r *Responder) takeOver() error {
	if r.opts.Mode != Auto && r.opts.Mode != r.before.mode { // mayReplace: its daemon is dead
		if err := r.before.link.Detach(); err != nil {
			return fmt.Errorf("interface %q: detaching the program of a dead daemon: %w", r.dev.name, err)
		}
		return errors.Join(r.attachNew(), r.before.detachHandoff())
	}
	// The predecessor has closed its sockets, and stopped to rotate its keys before.
	if err := r.inheritKeys(); err != nil {
		return err
	}
	// The tcx programs are alike: each reads the records of either XDP program.
	if err := r.takeOverHandoff(); err != nil {
		return err
	}
	err := r.before.link.Update(r.objects.Xdptcp)
	if errors.Is(err, unix.ENOLINK) { // it was on its way out when it was told to go
		return r.attachNew()
	}
	if err != nil {
		return fmt.Errorf("interface %q: putting the new program in the place of id %d: %w", r.dev.name, r.before.id, err)
	}
	r.link, r.before.link = r.before.link, nil
	r.mode.Store(r.before.mode)
	return r.before.detachHandoff()
}

// inheritKeys goes on with the predecessor's keys, so that cookies in flight stay good. A key file has the say over that, if
// there is one.
func (r *Responder) inheritKeys() error {
	if r.keyFile != nil {
		return nil
	}
	var keys bpf.CookieKeys
	m := r.before.maps["keys"]
	if m == nil || m.ValueSize() != r.objects.Keys.ValueSize() {
		r.log.Warn("the keys of the program before are of another form: handshakes under way fail", "interface", r.dev.name)
		return nil
	}
	if err := m.Lookup(uint32(0), &keys); err != nil {
		return fmt.Errorf("map keys of the program before: %w", err)
	}
	return r.flows.keys.inherit(&keys)
}
