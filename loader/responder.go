// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
)

// Mode is how the XDP program is run.
type Mode string

// The modes. Auto is a wish only: it tries native, then generic.
const (
	Auto    Mode = "auto"
	Native  Mode = "native"  // in the driver, before the kernel makes an skb
	Generic Mode = "generic" // after that: works on every interface, at a fraction of the speed
)

// DefaultFlows is how many flows each of the two tables (IPv4, IPv6) holds unless told otherwise.
const DefaultFlows = 1 << 18

// Options tell Prepare what to do.
type Options struct {
	Interface string
	Services  []Service
	Mode      Mode // "" is Auto
	Flows     int  // capacity of each flow table; 0: DefaultFlows
	// KeyRotation is how often the cookie's key changes. 0: DefaultKeyRotation; below: never.
	KeyRotation time.Duration
	// Takeover takes the new connections to ports that a kernel socket holds.
	Takeover bool
	// Allow and Deny name files with one address or prefix of clients to a line, which are followed when
	// they change. "": none. With Allow, only who is listed there may connect.
	Allow, Deny string
	Limits      Limits
	Log         *slog.Logger // nil: slog.Default
}

// A Responder is xdptcp's hold on one interface.
type Responder struct {
	dev     *netdev
	opts    Options
	log     *slog.Logger
	objects bpf.Objects
	flows   flowTable
	sockets []*afxdp.Socket
	mode    Mode
	close   sync.Once

	addresses *addresses
	lists     *lists // nil: neither list was given

	stopRotation context.CancelFunc // nil: no rotation
	rotation     sync.WaitGroup

	link link.Link // kept: one that the garbage collector takes detaches the program
}

// Prepare does all that attaching needs but the last step. It works in the network namespace of the
// calling thread. After an error nothing of it is left.
func Prepare(opts Options) (_ *Responder, err error) {
	if opts.Flows == 0 {
		opts.Flows = DefaultFlows
	}
	if opts.KeyRotation == 0 {
		opts.KeyRotation = DefaultKeyRotation
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	switch opts.Mode {
	case "":
		opts.Mode = Auto
	case Auto, Native, Generic:
	default:
		return nil, fmt.Errorf("unknown mode %q: want auto, native or generic", opts.Mode)
	}
	if err := CheckServices(opts.Services); err != nil {
		return nil, err
	}
	if opts.Flows > MaxFlows {
		return nil, fmt.Errorf("flow tables for %d flows: at most %d", opts.Flows, MaxFlows)
	}
	if err := opts.Limits.check(); err != nil {
		return nil, err
	}
	r := &Responder{opts: opts, log: opts.Log}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.dev, err = findNetdev(opts.Interface); err != nil {
		return nil, err
	}
	if err := checkPrivilege(); err != nil {
		return nil, err
	}
	if err := r.dev.refuseOthers(); err != nil {
		return nil, err
	}
	if err := opts.Limits.checkForwarding(r.dev.name); err != nil {
		return nil, err
	}
	if r.lists, err = openLists(opts.Allow, opts.Deny, r.log); err != nil {
		return nil, err
	}
	if r.addresses, err = openAddresses(opts.Services, r.dev, opts.Takeover, false, r.log); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lifting the limit on locked memory: %w", err)
	}
	if err := r.load(); err != nil {
		return nil, err
	}
	if r.sockets, err = r.dev.openSockets(); err != nil {
		return nil, fmt.Errorf("AF_XDP on %s: %w", r.dev.name, err)
	}
	for queue, s := range r.sockets {
		if err := r.objects.Sockets.Put(uint32(queue), uint32(s.FD())); err != nil {
			return nil, fmt.Errorf("map sockets: queue %d: %w", queue, err)
		}
	}
	return r, nil
}

// refuseOthers: a program that is there already is somebody's, and stays.
func (d *netdev) refuseOthers() error {
	if d.xdpID == 0 {
		return nil
	}
	name := "?"
	if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(d.xdpID)); err == nil {
		defer p.Close()
		if info, err := p.Info(); err == nil {
			name = info.Name
		}
	}
	if name == programName {
		return fmt.Errorf("interface %q has an xdptcp already (program id %d): stop that one first; xdptcp status %s shows it",
			d.name, d.xdpID, d.name)
	}
	return fmt.Errorf("interface %q has an XDP program of somebody else (id %d, name %q): xdptcp does not take its place; if nobody needs it: ip link set %s xdp off",
		d.name, d.xdpID, name, d.name)
}

// load puts program and maps into the kernel, filled.
func (r *Responder) load() error {
	spec, err := bpf.Load()
	if err != nil {
		return fmt.Errorf("reading the compiled XDP program: %w", err)
	}
	constants := map[string]any{
		"cfg_mac":               bpf.MACWords([6]byte(r.dev.mac)),
		"cfg_mss4":              uint16(r.dev.mtu - 40),
		"cfg_mss6":              uint16(r.dev.mtu - 60),
		"cfg_wscale":            uint8(bpf.WindowScale),
		"cfg_window":            uint16(bpf.Window),
		"cfg_partial_checksums": r.PartialChecksums(),
		"cfg_services":          describe(r.opts.Services),
		"cfg_sketch_shift":      uint32(64 - sketchBits(r.opts.Flows)),
		"cfg_prefixes":          wide(r.opts.Services),
	}
	r.lists.constants(constants)
	r.opts.Limits.constants(constants, r.dev.queues)
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("XDP program: %s: %w", name, err)
		}
	}
	spec.Maps["sockets"].MaxEntries = uint32(r.dev.queues)
	spec.Maps["lists4"].MaxEntries, spec.Maps["lists6"].MaxEntries = listRoom, listRoom
	spec.Maps["flows4"].MaxEntries = uint32(r.opts.Flows)
	spec.Maps["flows6"].MaxEntries = uint32(r.opts.Flows)
	spec.Maps["sketch"].MaxEntries = 1 << sketchBits(r.opts.Flows) / 8
	if err := spec.LoadAndAssign(&r.objects, nil); err != nil {
		return explainLoad(err)
	}
	keys, err := newKeyring(func(k *bpf.CookieKeys) error {
		if r.opts.Limits.StrictCookies {
			k.Strict = 1
		}
		return r.objects.Keys.Put(uint32(0), k)
	})
	if err != nil {
		return err
	}
	control, err := newControl()
	if err != nil {
		return err
	}
	if err := r.objects.Controls.Put(uint32(0), control); err != nil {
		return fmt.Errorf("map controls: %w", err)
	}
	sketch, err := openSketch(r.objects.Sketch, control)
	if err != nil {
		return err
	}
	r.flows = flowTable{flows4: r.objects.Flows4, flows6: r.objects.Flows6, sketch: sketch, keys: keys}
	if r.opts.KeyRotation > 0 {
		ctx, stop := context.WithCancel(context.Background())
		r.stopRotation = stop
		r.rotation.Go(func() {
			keys.run(ctx, r.opts.KeyRotation, func(err error) { r.log.Error("key rotation; the old key stays", "err", err) })
		})
	}
	if err := r.lists.serve(&r.objects); err != nil {
		return err
	}
	return r.addresses.serve(&r.objects)
}

// newControl arms all services, for a daemon that holds its lease for ever.
func newControl() (*bpf.Control, error) {
	c := &bpf.Control{Lease: math.MaxUint64, Armed: math.MaxUint64}
	if err := binary.Read(rand.Reader, binary.NativeEndian, &c.SketchKey); err != nil {
		return nil, fmt.Errorf("random key: %w", err)
	}
	return c, nil
}

// Attach is the last step: from its return on XDP answers. In Auto mode a driver that can't do
// native XDP leads to generic, which is logged and told by Mode.
func (r *Responder) Attach() error {
	var native error
	if r.opts.Mode != Generic {
		if native = r.attach(link.XDPDriverMode); native == nil {
			r.mode = Native
			return nil
		}
		native = explainAttach(r.dev, Native, native)
		if r.opts.Mode == Native {
			return native
		}
		if errors.Is(native, unix.EBUSY) || errors.Is(native, unix.EEXIST) {
			return native // generic would meet the same
		}
		r.log.Warn("falling back to generic XDP, at a fraction of native speed", "because", native)
	}
	if err := r.attach(link.XDPGenericMode); err != nil {
		return errors.Join(native, explainAttach(r.dev, Generic, err))
	}
	r.mode = Generic
	return nil
}

func (r *Responder) attach(flags link.XDPAttachFlags) (err error) {
	r.link, err = link.AttachXDP(link.XDPOptions{
		Program: r.objects.Xdptcp, Interface: r.dev.index, Flags: flags,
	})
	return err
}

// Close takes the program off, then closes the sockets and frees everything.
func (r *Responder) Close() {
	r.close.Do(func() {
		if r.link != nil {
			if err := r.link.Close(); err != nil {
				r.log.Error("detaching; the program goes when this process ends", "interface", r.dev.name, "err", err)
			}
		}
		for _, s := range r.sockets {
			if err := s.Close(); err != nil {
				r.log.Warn("closing an AF_XDP socket", "err", err)
			}
		}
		if r.stopRotation != nil {
			r.stopRotation()
			r.rotation.Wait()
		}
		if r.addresses != nil {
			r.addresses.close()
		}
		r.lists.close()
		if r.flows.sketch != nil {
			_ = r.flows.sketch.close() // nothing is left that could be lost
		}
		_ = r.objects.Close() // only closes file descriptors
	})
}

// Reasons are XDP's counters, summed over CPUs.
func (r *Responder) Reasons() ([bpf.ReasonCount]uint64, error) {
	return readCounters(r.objects.Counters)
}

func readCounters(m *ebpf.Map) (sum [bpf.ReasonCount]uint64, err error) {
	var perCPU []uint64
	for i := range sum {
		if err := m.Lookup(uint32(i), &perCPU); err != nil {
			return sum, fmt.Errorf("map counters: %w", err)
		}
		for _, n := range perCPU {
			sum[i] += n
		}
	}
	return sum, nil
}

// Sockets are the AF_XDP sockets, by queue. They belong to the responder.
func (r *Responder) Sockets() []*afxdp.Socket { return r.sockets }

// FlowTable is XDP's table of flows.
func (r *Responder) FlowTable() userspace.FlowTable { return &r.flows }

// PartialChecksums says whether peers may leave checksums unfinished: see Config of userspace.
func (r *Responder) PartialChecksums() bool { return r.dev.sharesHost() }

// EngineConfig is what an engine on this interface needs.
func (r *Responder) EngineConfig() userspace.Config {
	cfg := userspace.Config{
		Flows: &r.flows, MTU: r.dev.mtu, PartialChecksums: r.PartialChecksums(), Log: r.log,
	}
	for _, s := range r.sockets {
		cfg.Links = append(cfg.Links, s)
	}
	return cfg
}

// Advice is what the operator should know about this interface; mostly there is none.
func (r *Responder) Advice() (list []string) {
	if r.dev.driver == "veth" {
		list = append(list, "on a veth pair the SYN/ACKs arrive only if the other end runs an XDP program too (XDP_PASS will do)")
	}
	if r.mode == Generic {
		list = append(list, fmt.Sprintf("generic mode: frames that GRO has merged are lost; turn it off with: ethtool -K %s gro off", r.dev.name))
	}
	return list
}

// Mode is the mode reached: Native or Generic; "" before Attach.
func (r *Responder) Mode() Mode { return r.mode }

// Interface is the interface's name.
func (r *Responder) Interface() string { return r.dev.name }

// MTU is the interface's, in bytes.
func (r *Responder) MTU() int { return r.dev.mtu }

// Addrs are the host's own addresses, as they are now.
func (r *Responder) Addrs() []netip.Addr { return r.addresses.Own() }

// Flows is the capacity of each flow table.
func (r *Responder) Flows() int { return r.opts.Flows }

// explainLoad turns the kernel's refusal to load the program into advice.
func explainLoad(err error) error {
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
		return fmt.Errorf("loading the XDP program: this kernel's verifier refuses it (xdptcp needs Linux 6.1 or later): %w", err)
	}
	return fmt.Errorf("loading the XDP program: %w", err)
}

// explainAttach turns a driver's errno into advice.
func explainAttach(d *netdev, mode Mode, err error) error {
	advice := ""
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		advice = fmt.Sprintf("driver %q has no native XDP; use --mode generic", d.driver)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		advice = "another XDP program is on it; bpftool net shows which"
	case errors.Is(err, unix.EINVAL):
		advice = fmt.Sprintf("the driver refuses, usually for MTU %d or LRO; try: ip link set %s mtu 1500, ethtool -K %s lro off", d.mtu, d.name, d.name)
	case errors.Is(err, unix.ERANGE):
		advice = fmt.Sprintf("MTU %d (or, on veth, the peer's) is above the driver's XDP limit; try: ip link set %s mtu 1500", d.mtu, d.name)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		advice = "the driver has too few queues or too little memory for XDP; try fewer queues: ethtool -L " + d.name + " combined 1"
	case errors.Is(err, unix.EPERM):
		advice = "run as root"
	default:
		advice = "see the kernel's log: dmesg | tail"
	}
	return fmt.Errorf("attach %s (%s): %w: %s", d.name, mode, err, advice)
}
