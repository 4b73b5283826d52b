// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
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
	// KeyFile is where the cookie's keys are read from, and read again when it changes; then there is
	// no rotation. "": random keys of this process alone.
	KeyFile string
	// Takeover takes the new connections to ports that a kernel socket holds.
	Takeover bool
	// Shield is when XDP answers the SYNs of kernel services. "": ShieldAlways.
	Shield Shield
	// ShieldOn and ShieldOff are SYNs per second to all kernel services, at which ShieldAuto begins to
	// answer, and below which it ends. 0: DefaultShieldOn, DefaultShieldOff.
	ShieldOn, ShieldOff int
	// Outlive keeps kernel services protected when the daemon's lease is over.
	Outlive bool
	// Allow and Deny name files with one address or prefix of clients to a line, which are followed when
	// they change. "": none. With Allow, only who is listed there may connect.
	Allow, Deny string
	Limits      Limits
	// PinDir is a directory on a BPF filesystem where the program is pinned, so that it goes on when the
	// process dies: services that outlive the daemon are answered, all other packets pass to the kernel, and
	// the next Attach takes over with all flows. "": the program goes with the process.
	PinDir string
	// Replace takes the place of a living xdptcp on the interface, without a SYN unanswered.
	Replace bool
	// Disarmed leaves all SYNs to the kernel until Arm.
	Disarmed bool
	// LastCheck is called when nothing else can fail any more, before the daemon whose place is taken is told to end: an
	// error of it ends Prepare. nil: none.
	LastCheck func() error
	Log       *slog.Logger // nil: slog.Default
}

// A Responder is xdptcp's hold on one interface.
type Responder struct {
	dev     *netdev
	at      place
	opts    Options
	log     *slog.Logger
	objects bpf.Objects
	control *controlBlock
	host    hostTCP // with kernel services, as handoff is
	handoff bpf.HandoffObjects
	flows   flowTable
	sockets []*afxdp.Socket
	mode    atomic.Value // Mode; asked for by connections that come before Attach returns
	reading sync.RWMutex // of maps, which Close must not close meanwhile

	detach, close sync.Once

	handoffLink link.Link  // nil: no kernel services
	lost        chan error // that the interface is gone, without an engine
	stopWatch   func()

	addresses *addresses
	lists     *lists // nil: neither list was given

	keyFile  *keyWatch       // nil: none
	changing context.Context // of the keys: ends with Close, or when another is the owner
	stopKeys context.CancelFunc
	keys     sync.WaitGroup

	owner     uint64 // our number in the control block
	lease     *lease
	healthy   func() error
	dismissed chan string

	lock   *lock // from Prepare until Attach is through
	before *hold // the xdptcp whose place this one takes; nil: none
	pin    pin

	link link.Link // kept: one that the garbage collector takes detaches the program, unless it is pinned
}

// Prepare does all that attaching needs but the last step. It works in the network namespace of the
// calling thread. After an error nothing of it is left.
//
// If it takes the place of another daemon (Options.Replace, or because that one is dead), that one is told to
// end once nothing else can fail, and Prepare waits for its sockets: some seconds.
func Prepare(opts Options) (_ *Responder, err error) {
	if opts.Flows == 0 {
		opts.Flows = DefaultFlows
	}
	switch {
	case opts.KeyFile != "" && opts.KeyRotation > 0:
		return nil, errors.New("a key file and key rotation exclude each other: the keys of a key file change with the file")
	case opts.KeyFile == "" && opts.KeyRotation == 0:
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
	if err := checkShield(&opts); err != nil {
		return nil, err
	}
	r := &Responder{
		opts: opts, log: opts.Log, dismissed: make(chan string, 1), lost: make(chan error, 1), stopWatch: func() {},
	}
	r.changing, r.stopKeys = context.WithCancel(context.Background())
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
	if err := r.claim(); err != nil {
		return nil, err
	}
	keys, err := r.firstKeys()
	if err != nil {
		return nil, err
	}
	if err := opts.Limits.checkForwarding(r.dev.name); err != nil {
		return nil, err
	}
	if r.lists, err = openLists(opts.Allow, opts.Deny, r.log); err != nil {
		return nil, err
	}
	if r.addresses, err = openAddresses(opts.Services, append(r.before.held(), servicesBeside(r.dev.index)...), r.dev, opts.Takeover, r.log); err != nil {
		return nil, err
	}
	if err := r.checkKernelServices(); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lifting the limit on locked memory: %w", err)
	}
	if err := r.load(keys); err != nil {
		return nil, err
	}
	if opts.LastCheck != nil {
		if err := opts.LastCheck(); err != nil {
			return nil, err
		}
	}
	if err := preparePins(opts.PinDir); err != nil {
		return nil, err
	}
	r.pin = pinAt(opts.PinDir, r.at)
	r.succeed()
	if len(engineServices(opts.Services)) == 0 {
		return r, nil // what the kernel serves needs no AF_XDP
	}
	if r.sockets, err = r.awaitSockets(); err != nil {
		return nil, fmt.Errorf("AF_XDP on %s: %w", r.dev.name, err)
	}
	for queue, s := range r.sockets {
		if err := r.objects.Sockets.Put(uint32(queue), uint32(s.FD())); err != nil {
			return nil, fmt.Errorf("map sockets: queue %d: %w", queue, err)
		}
	}
	return r, nil
}

// claim makes sure that the interface may be ours, and that nobody else attaches to it meanwhile.
func (r *Responder) claim() (err error) {
	if r.at, err = placeOf(r.dev.index); err != nil {
		return err
	}
	if r.lock, err = lockPlace(r.at, r.dev.name); err != nil {
		return err
	}
	return r.findPredecessor()
}

// firstKeys are those of the key file, or random ones.
func (r *Responder) firstKeys() (keys KeySet, err error) {
	if r.opts.KeyFile == "" {
		return GenerateKeys()
	}
	r.keyFile, keys, err = openKeyFile(r.opts.KeyFile, r.log)
	keys.keys.Clock = sharedClock() // who shares keys must agree on the time as well
	return keys, err
}

// load puts program and maps into the kernel, filled.
func (r *Responder) load(first KeySet) error {
	spec, err := r.spec()
	if err != nil {
		return err
	}
	shared := r.sharedMaps(spec)
	if err := spec.LoadAndAssign(&r.objects, &ebpf.CollectionOptions{MapReplacements: shared}); err != nil {
		return explainLoad(err)
	}
	if kernelServices(r.opts.Services) != 0 {
		if err := r.loadHandoff(); err != nil {
			return err
		}
	}
	if err := r.fillControl(len(shared) > 0); err != nil {
		return err
	}
	if r.opts.Limits.StrictCookies {
		first.keys.Strict = 1
	}
	keys, err := newKeyring(func(k *bpf.CookieKeys) error { return r.objects.Keys.Put(uint32(0), k) }, first)
	if err != nil {
		return err
	}
	sketch, err := openSketch(r.objects.Sketch, r.control)
	if err != nil {
		return err
	}
	r.flows = flowTable{flows4: r.objects.Flows4, flows6: r.objects.Flows6, sketch: sketch, keys: keys}
	if err := r.lists.serve(&r.objects); err != nil {
		return err
	}
	return r.addresses.serve(&r.objects)
}

// spec is the program with its constants and the sizes of its maps.
func (r *Responder) spec() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.Load()
	if err != nil {
		return nil, fmt.Errorf("reading the compiled XDP program: %w", err)
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
	maps.Copy(constants, r.kernelConstants())
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("XDP program: %s: %w", name, err)
		}
	}
	spec.Maps["sockets"].MaxEntries = uint32(r.dev.queues)
	spec.Maps["lists4"].MaxEntries, spec.Maps["lists6"].MaxEntries = listRoom, listRoom
	spec.Maps["flows4"].MaxEntries = uint32(r.opts.Flows)
	spec.Maps["flows6"].MaxEntries = uint32(r.opts.Flows)
	spec.Maps["sketch"].MaxEntries = 1 << sketchBits(r.opts.Flows) / 16
	return spec, nil
}

// fillControl makes the control block, with a lease that has run out. The sketch's key goes with the sketch.
func (r *Responder) fillControl(sketchShared bool) (err error) {
	if r.owner, err = randomOwner(); err != nil {
		return err
	}
	c := bpf.Control{Armed: r.armedBits(), Owner: r.owner, Pid: uint64(os.Getpid())}
	if sketchShared {
		c.SketchKey = r.before.control.SketchKey
	} else if err := binary.Read(rand.Reader, binary.NativeEndian, &c.SketchKey); err != nil {
		return fmt.Errorf("random key: %w", err)
	}
	if err := r.objects.Controls.Put(uint32(0), &c); err != nil {
		return fmt.Errorf("map controls: %w", err)
	}
	r.control, err = openControl(r.objects.Controls)
	return err
}

// HealthCheck makes the lease depend on a function: while it returns an error, packets pass to the kernel. It is called
// every 100 ms and must not block. To be called before Attach, with an engine's Healthy.
func (r *Responder) HealthCheck(healthy func() error) { r.healthy = healthy }

// Dismissed tells, once, why the interface is not this responder's any more: it was replaced or detached by another process.
// What remains to be done is to end: the engine's Retire and Close, then Close, which then touches neither program nor pin.
func (r *Responder) Dismissed() <-chan string { return r.dismissed }

// Attach is the last step: from its return on XDP answers. In Auto mode a driver that can't do
// native XDP leads to generic, which is logged and told by Mode.
func (r *Responder) Attach() error {
	defer r.lock.release()
	r.lease = &lease{control: r.control, owner: r.owner, healthy: r.healthy, lost: r.dismiss, log: r.log}
	r.lease.start()
	var err error
	if r.before != nil {
		err = r.takeOver()
	} else {
		err = r.attachNew()
	}
	if err != nil {
		return err
	}
	if r.before != nil {
		r.before.release()
		r.before = nil
	}
	r.changeKeys()
	r.addresses.start()
	if len(r.sockets) == 0 {
		r.watch()
	}
	if r.handoffLink != nil {
		if err := r.pin.put(handoffPin, r.handoffLink); err != nil {
			return err
		}
	}
	return r.pin.put(linkPin, r.link)
}

// dismiss is what happens when the control block has another owner.
func (r *Responder) dismiss() {
	r.stopKeys() // from here on the keys are the successor's
	pid := atomic.LoadUint64(&r.control.Pid)
	if atomic.LoadUint64(&r.control.Owner) == nobody {
		r.dismissed <- fmt.Sprintf("detached by pid %d", pid)
		return
	}
	r.dismissed <- fmt.Sprintf("replaced by pid %d", pid)
}

// changeKeys follows the key file, or changes the key by the clock, until Close or dismiss.
func (r *Responder) changeKeys() {
	switch {
	case r.keyFile != nil:
		r.keyFile.ring = r.flows.keys
		r.keys.Go(func() { r.keyFile.run(r.changing) })
	case r.opts.KeyRotation > 0:
		r.keys.Go(func() {
			r.flows.keys.run(r.changing, r.opts.KeyRotation, func(err error) { r.log.Error("key rotation; the old key stays", "err", err) })
		})
	}
}

// attachNew makes a new link.
func (r *Responder) attachNew() error {
	var native error
	if native = r.attachHandoff(); native != nil { // first: nothing that XDP passes with a record may miss it
		return native
	}
	if r.opts.Mode != Generic {
		if native = r.attach(link.XDPDriverMode); native == nil {
			r.mode.Store(Native)
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
	r.mode.Store(Generic)
	return nil
}

func (r *Responder) attach(flags link.XDPAttachFlags) (err error) {
	r.link, err = link.AttachXDP(link.XDPOptions{
		Program: r.objects.Xdptcp, Interface: r.dev.index, Flags: flags,
	})
	return err
}

// Detach takes the program off, and the pin: packets are the kernel's again. Close does so too. A responder that was
// replaced or detached by another process leaves both to that one.
func (r *Responder) Detach() {
	r.detach.Do(func() {
		r.stopWatch()
		if r.lease != nil {
			r.lease.end()
		}
		if r.link == nil {
			return
		}
		if atomic.CompareAndSwapUint64(&r.control.Owner, r.owner, nobody) {
			atomic.StoreUint64(&r.control.Lease, 0)
			if err := r.pin.remove(); err != nil {
				r.log.Error("the pin stays", "interface", r.dev.name, "err", err)
			}
			if err := r.link.Detach(); err != nil {
				r.log.Error("detaching", "interface", r.dev.name, "err", err)
			}
			if r.handoffLink != nil { // last: no record goes unread
				if err := r.handoffLink.Detach(); err != nil {
					r.log.Error("detaching the tcx program", "interface", r.dev.name, "err", err)
				}
			}
		}
		_ = r.link.Close() // only closes a file descriptor
	})
}

// Close is Detach, and then closes the sockets and frees everything.
func (r *Responder) Close() {
	r.Detach()
	r.close.Do(func() {
		if r.handoffLink != nil {
			_ = r.handoffLink.Close() // only closes a file descriptor
		}
		if r.addresses != nil {
			r.addresses.close() // before the sockets: a successor waits for those, and then needs the ports
		}
		for _, s := range r.sockets {
			if err := s.Close(); err != nil {
				r.log.Warn("closing an AF_XDP socket", "err", err)
			}
		}
		r.stopKeys()
		r.keys.Wait()
		if r.before != nil {
			r.before.release()
		}
		r.lists.close()
		if r.flows.sketch != nil {
			_ = r.flows.sketch.close() // nothing is left that could be lost
		}
		if r.control != nil {
			_ = r.control.close()
		}
		r.reading.Lock()
		defer r.reading.Unlock()
		_ = r.handoff.Close() // these only close file descriptors
		_ = r.objects.Close()
		r.lock.release()
	})
}

// Reasons are XDP's counters, summed over CPUs.
func (r *Responder) Reasons() ([bpf.ReasonCount]uint64, error) {
	r.reading.RLock()
	defer r.reading.RUnlock()
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

// Lease says whether the lease holds: packets of services come to us. After Close it does not.
func (r *Responder) Lease() bool {
	c, err := readControl(r.objects.Controls)
	return err == nil && leaseAge(c.Lease) <= 0
}

// Armed says for each service, in the form that ParseService reads, whether its SYNs are answered.
func (r *Responder) Armed() map[string]bool {
	c, err := readControl(r.objects.Controls)
	armed := map[string]bool{}
	for i, svc := range r.opts.Services {
		armed[svc.String()] = err == nil && c.Armed>>i&1 != 0
	}
	return armed
}

// Sockets are the AF_XDP sockets, by queue. They belong to the responder.
func (r *Responder) Sockets() []*afxdp.Socket { return r.sockets }

// Keys says which of the cookie's keys are in use.
func (r *Responder) Keys() KeyStatus { return r.flows.keys.status() }

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
	if r.Mode() == Generic && len(r.sockets) > 0 {
		list = append(list, fmt.Sprintf("generic mode: frames that GRO has merged are lost; turn it off with: ethtool -K %s gro off", r.dev.name))
	}
	return list
}

// Mode is the mode reached: Native or Generic; "" before Attach.
func (r *Responder) Mode() Mode {
	mode, _ := r.mode.Load().(Mode)
	return mode
}

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
