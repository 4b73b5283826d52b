// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
)

// ActionKernel is the action of a service that the host's own stack serves: XDP agrees the handshake,
// and the connection goes to whoever listens on the port.
const ActionKernel = "kernel"

// Shield is when XDP answers the SYNs of kernel services.
type Shield string

// The shields.
const (
	ShieldAlways Shield = "always"
	ShieldAuto   Shield = "auto" // only while SYNs are many
)

// The rates of SYNs, in all per second, at which an automatic shield goes up, and below which it comes
// down, unless told otherwise.
const (
	DefaultShieldOn  = 20_000
	DefaultShieldOff = 10_000
)

// kernelServices are the services that the host's stack serves, as a bit set.
func kernelServices(services []Service) (set uint64) {
	for i, s := range services {
		if s.Action == ActionKernel {
			set |= 1 << i
		}
	}
	return set
}

// engineServices are the others: those that an engine serves.
func engineServices(services []Service) (list []Service) {
	for _, s := range services {
		if s.Action != ActionKernel {
			list = append(list, s)
		}
	}
	return list
}

// checkShield fills in what the options leave out, and refuses what can't be.
func checkShield(o *Options) error {
	if o.Shield == "" {
		o.Shield = ShieldAlways
	}
	if o.Shield != ShieldAlways && o.Shield != ShieldAuto {
		return fmt.Errorf("unknown shield %q: want always or auto", o.Shield)
	}
	if o.ShieldOn == 0 {
		o.ShieldOn = DefaultShieldOn
	}
	if o.ShieldOff == 0 {
		o.ShieldOff = min(DefaultShieldOff, o.ShieldOn/2)
	}
	if o.ShieldOn < 0 || o.ShieldOff < 0 || o.ShieldOff >= o.ShieldOn {
		return fmt.Errorf("the shield would go up at %d SYNs per second and come down below %d: the first must be the larger", o.ShieldOn, o.ShieldOff)
	}
	return nil
}

// A hostTCP is what the sysctls of a network namespace say of TCP.
type hostTCP struct {
	options uint8 // bpf.Handshake…: what the kernel grants
	wscale  uint8 // that it offers
}

// checkHost says whether the kernel can be handed connections in the calling thread's network namespace.
func checkHost() (h hostTCP, err error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return h, fmt.Errorf("kernel services need the kernel's BTF: %w", err)
	}
	if err := canAssign(kernel); err != nil {
		return h, err
	}
	cookies, err := sysctl("ipv4/tcp_syncookies")
	if err != nil {
		return h, fmt.Errorf("kernel services need a kernel with CONFIG_SYN_COOKIES: %w", err)
	}
	if cookies == 0 {
		return h, errors.New("kernel services need the kernel's SYN cookies, which net.ipv4.tcp_syncookies=0 forbids: allow them with: sysctl net.ipv4.tcp_syncookies=1")
	}
	for _, o := range []struct {
		name string
		flag uint8
	}{
		{"tcp_window_scaling", bpf.HandshakeWScale}, {"tcp_sack", bpf.HandshakeSACK}, {"tcp_timestamps", bpf.HandshakeTimestamps},
		{"tcp_ecn", bpf.HandshakeECN}, // 2, the default: when a client asks for it
	} {
		allowed, err := sysctl("ipv4/" + o.name)
		if err != nil {
			return h, err
		}
		if allowed != 0 {
			h.options |= o.flag
		}
	}
	h.wscale, err = hostWindowScale()
	return h, err
}

// canAssign looks for what hands a connection to the kernel.
func canAssign(kernel *btf.Spec) error {
	var f *btf.Func
	if err := kernel.TypeByName("bpf_sk_assign_tcp_reqsk", &f); err == nil {
		return nil
	}
	var u unix.Utsname
	_ = unix.Uname(&u) // with a good pointer it does not fail
	return fmt.Errorf("kernel services need Linux 6.9 or later: this is %s: use another action, such as http",
		unix.ByteSliceToString(u.Release[:]))
}

// hostWindowScale is the window scale that the kernel would offer: tcp_select_initial_window.
func hostWindowScale() (uint8, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_rmem")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) != 3 {
		return 0, fmt.Errorf("net.ipv4.tcp_rmem: %q: want three numbers", text)
	}
	most, err := strconv.Atoi(fields[2])
	if err != nil {
		return 0, fmt.Errorf("net.ipv4.tcp_rmem: %w", err)
	}
	if limit, err := sysctl("core/rmem_max"); err == nil { // not there in every namespace
		most = max(most, limit)
	}
	return uint8(min(max(bits.Len(uint(most))-16, 0), 14)), nil
}

// sysctl reads a number of the calling thread's network namespace.
func sysctl(name string) (int, error) {
	text, err := os.ReadFile("/proc/sys/net/" + name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("net.%s: %w", strings.ReplaceAll(name, "/", "."), err)
	}
	return n, nil
}

// checkKernelServices refuses what can't be handed to the kernel here, and warns of what isn't served yet.
func (r *Responder) checkKernelServices() (err error) {
	if kernelServices(r.opts.Services) == 0 {
		return nil
	}
	if r.host, err = checkHost(); err != nil {
		return err
	}
	for _, s := range r.opts.Services {
		if s.Action != ActionKernel {
			continue
		}
		found, err := listeners(s.Port)
		if errors.Is(err, unix.ENOENT) { // no module tcp_diag
			r.log.Warn("this kernel can't tell who listens: if nobody does for a kernel service, or one that speaks MPTCP, its clients are reset",
				"service", s.String())
			continue
		}
		if err != nil {
			return err
		}
		serving := 0
		for _, l := range found {
			if !l.serves(s, r.addresses.Own()) {
				continue
			}
			serving++
			if l.mptcp {
				return fmt.Errorf("the listener on %v is one of MPTCP, which the kernel can't be handed connections for: start it without (Go programs: GODEBUG=multipathtcp=0)", l.addr)
			}
		}
		if serving == 0 {
			r.log.Warn("nothing listens for a kernel service: until something does, its clients are reset", "service", s.String())
		}
	}
	return nil
}

// kernelConstants are the XDP program's constants for kernel services.
func (r *Responder) kernelConstants() map[string]any {
	set := kernelServices(r.opts.Services)
	constants := map[string]any{
		"cfg_kernel":     set,
		"cfg_shield_on":  perWindow(r.opts.ShieldOn, receivers(r.dev.queues)),
		"cfg_shield_off": perWindow(r.opts.ShieldOff, receivers(r.dev.queues)),
	}
	if set != 0 {
		constants["cfg_kernel_wscale"] = r.host.wscale
		constants["cfg_kernel_options"] = r.host.options
	}
	if r.opts.Shield == ShieldAuto {
		constants["cfg_shield"] = set
	}
	if r.opts.Outlive {
		constants["cfg_outlive"] = set
	}
	return constants
}

// loadHandoff loads the tcx program of kernel services, which counts where XDP counts.
func (r *Responder) loadHandoff() error {
	spec, err := bpf.LoadHandoff()
	if err != nil {
		return fmt.Errorf("reading the compiled tcx program: %w", err)
	}
	if err := spec.Variables["cfg_kernel_wscale"].Set(r.host.wscale); err != nil {
		return fmt.Errorf("tcx program: cfg_kernel_wscale: %w", err)
	}
	err = spec.LoadAndAssign(&r.handoff, &ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{"counters": r.objects.Counters},
	})
	if err != nil {
		return fmt.Errorf("loading the tcx program: %w", err)
	}
	return nil
}

// attachHandoff puts the tcx program on the interface, in front of those of others, if there are kernel services. Every
// packet goes on to them afterwards.
func (r *Responder) attachHandoff() (err error) {
	if kernelServices(r.opts.Services) == 0 || r.handoffLink != nil {
		return nil
	}
	r.handoffLink, err = link.AttachTCX(link.TCXOptions{
		Interface: r.dev.index, Program: r.handoff.Handoff, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
	})
	if err != nil {
		return fmt.Errorf("attach %s (tcx): %w", r.dev.name, err)
	}
	return nil
}

// takeOverHandoff puts the tcx program in the place of the predecessor's, if there is one.
func (r *Responder) takeOverHandoff() error {
	if kernelServices(r.opts.Services) == 0 {
		return nil
	}
	if r.before.tcx == nil {
		return r.attachHandoff()
	}
	if err := r.before.tcx.Update(r.handoff.Handoff); err != nil {
		return fmt.Errorf("interface %q: putting the new tcx program in the place of the one before: %w", r.dev.name, err)
	}
	r.handoffLink, r.before.tcx = r.before.tcx, nil
	return nil
}

// watch looks every second whether the interface is still there, until stopWatch. An engine notices by itself;
// this is for an interface without one.
func (r *Responder) watch() {
	ctx, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	r.stopWatch = func() { stop(); watching.Wait() }
	watching.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				info, err := r.link.Info()
				if err == nil && info.XDP() != nil && info.XDP().Ifindex == 0 { // the link outlived its interface
					r.lost <- fmt.Errorf("interface %s is gone", r.dev.name)
					return
				}
			}
		}
	})
}

// Lost tells when the interface was deleted, if there are kernel services alone; else the engine's Lost does.
func (r *Responder) Lost() <-chan error { return r.lost }

// ShieldUp says whether SYNs of kernel services are answered by XDP on any CPU because there are many:
// always false where the shield is not automatic.
func (r *Responder) ShieldUp() (bool, error) {
	if r.opts.Shield != ShieldAuto || kernelServices(r.opts.Services) == 0 {
		return false, nil
	}
	r.reading.RLock()
	defer r.reading.RUnlock()
	return readShields(r.objects.Shields, perWindow(r.opts.ShieldOff, receivers(r.dev.queues)))
}

// readShields says whether the shield is up on any CPU.
func readShields(m *ebpf.Map, off uint32) (up bool, err error) {
	var perCPU []bpf.Shield
	if err := m.Lookup(uint32(0), &perCPU); err != nil {
		return false, fmt.Errorf("map shields: %w", err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return false, fmt.Errorf("clock: %w", err)
	}
	for _, s := range perCPU {
		up = up || s.Raised(uint64(now.Nano())>>bpf.TickShift, off)
	}
	return up, nil
}
