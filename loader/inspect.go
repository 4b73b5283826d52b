// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/xdptcp/xdptcp/bpf"
)

const programName = "xdptcp"

// servicesSize is the room for the description of the services in the program: cfg_services. It is
// enough for as many services as there may be.
const servicesSize = 4096

// describe writes the services into the program's constants, for Inspect to find.
func describe(services []Service) (text [servicesSize]byte) {
	var list []string
	for _, s := range services {
		list = append(list, s.String())
	}
	copy(text[:servicesSize-1], strings.Join(list, " "))
	return text
}

// A State is what the kernel says of an xdptcp on an interface. It is read from the kernel, not from
// the process that attached it, so it is there even if that one hangs.
type State struct {
	Interface string
	Index     int
	Mode      Mode
	ProgramID uint32
	Loaded    time.Time
	Services  []string // as given to --listen
	Armed     []bool   // by service: its SYNs are answered
	Queues    int      // RX queues served
	Flows     int      // capacity of each flow table
	PID       int      // of the daemon; 0: there is none any more
	Alive     bool     // the daemon renews its lease; if not, packets pass to the kernel
	// DeadFor is how long ago the lease ran out. 0: it holds, or its daemon gave it up.
	DeadFor time.Duration
	Reasons [bpf.ReasonCount]uint64

	Shield   Shield // of kernel services; "": there are none
	Outlives bool   // they are protected without a daemon, too
	ShieldUp bool   // with ShieldAuto: SYNs are so many that XDP answers them

	at place
}

// Pin is the path of the link's pin below a pin directory, "" if none can be seen there.
func (s State) Pin(dir string) string {
	if p := pinAt(dir, s.at); p.exists() {
		return p.path()
	}
	return ""
}

// Degraded says why it serves less well than it could; nil: it doesn't.
func (s State) Degraded() error {
	switch {
	case !s.Alive:
		return errors.New("no living daemon")
	case s.Mode == Generic:
		return errors.New("generic mode")
	}
	return nil
}

// Inspect reads the state of an interface in the calling thread's network namespace, or with "" of
// all that have an xdptcp. It changes nothing.
func Inspect(name string) ([]State, error) {
	var links []netlink.Link
	var err error
	if name == "" {
		if links, err = netlink.LinkList(); err != nil {
			return nil, fmt.Errorf("listing interfaces: %w", err)
		}
	} else {
		l, err := findLink(name)
		if err != nil {
			return nil, err
		}
		links = []netlink.Link{l}
	}
	var states []State
	for _, l := range links {
		a, err := findAttached(l.Attrs())
		var foreign *foreignError
		if errors.Is(err, ErrNotAttached) || errors.As(err, &foreign) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("interface %q: %w", l.Attrs().Name, err)
		}
		s, err := a.state(l.Attrs().Index)
		a.close()
		if err != nil {
			return nil, fmt.Errorf("interface %q: %w", l.Attrs().Name, err)
		}
		states = append(states, s)
	}
	if len(states) > 0 {
		return states, nil
	}
	if name == "" {
		return nil, fmt.Errorf("%w to any interface", ErrNotAttached)
	}
	return nil, fmt.Errorf("%w to %s", ErrNotAttached, name)
}

// findLink finds an interface by name; if there is none, the error names those that there are.
func findLink(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("no such interface: %q (there are: %s)", name, interfaceNames())
	}
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	return l, nil
}

func (a *attached) state(ifindex int) (s State, err error) {
	s = State{
		Interface: a.iface, Index: ifindex, Mode: a.mode, ProgramID: uint32(a.id),
		PID: int(a.control.Pid), Alive: a.alive(), DeadFor: a.deadFor(),
	}
	if s.at, err = placeOf(ifindex); err != nil {
		return s, err
	}
	if since, ok := a.info.LoadTime(); ok {
		s.Loaded = bootTime().Add(since)
	}
	if s.Services, err = a.services(); err != nil {
		return s, err
	}
	for i := range s.Services {
		s.Armed = append(s.Armed, a.armed(i))
	}
	if m := a.maps["counters"]; m != nil {
		if s.Reasons, err = readCounters(m); err != nil {
			return s, err
		}
	}
	if m := a.maps["flows4"]; m != nil {
		s.Flows = int(m.MaxEntries())
	}
	if m := a.maps["sockets"]; m != nil {
		s.Queues = int(m.MaxEntries())
	}
	return s, s.readShield(a)
}

// services are those that the program was loaded for, in the order of their bits.
func (a *attached) services() ([]string, error) {
	rodata := a.maps[".rodata"]
	if rodata == nil {
		return nil, errors.New("the program has no map .rodata")
	}
	return readServices(rodata)
}

func readServices(rodata *ebpf.Map) ([]string, error) {
	spec, err := bpf.Load()
	if err != nil {
		return nil, err
	}
	v := spec.Variables["cfg_services"]
	data, err := rodata.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("map .rodata: %w", err)
	}
	offset := int(v.Offset)
	if len(data) < offset+servicesSize {
		return nil, errors.New("map .rodata is of another version of xdptcp")
	}
	text, _, _ := strings.Cut(string(data[offset:offset+servicesSize]), "\x00")
	return strings.Fields(text), nil
}

// readShield takes what the program's constants and the CPUs' state say of the shield.
func (s *State) readShield(a *attached) error {
	shields, rodata := a.maps["shields"], a.maps[".rodata"]
	if shields == nil || rodata == nil {
		return errors.New("the program is of another version of xdptcp")
	}
	kernel, err := readConstant(rodata, "cfg_kernel")
	if err != nil || kernel == 0 {
		return err
	}
	outlive, err := readConstant(rodata, "cfg_outlive")
	if err != nil {
		return err
	}
	s.Outlives = outlive != 0
	s.Shield = ShieldAlways
	auto, err := readConstant(rodata, "cfg_shield")
	if err != nil || auto == 0 {
		return err
	}
	s.Shield = ShieldAuto
	off, err := readConstant(rodata, "cfg_shield_off")
	if err != nil {
		return err
	}
	s.ShieldUp, err = readShields(shields, uint32(off))
	return err
}

// readConstant reads a number of 4 or 8 bytes among the program's constants.
func readConstant(rodata *ebpf.Map, name string) (uint64, error) {
	spec, err := bpf.Load()
	if err != nil {
		return 0, err
	}
	data, err := rodata.LookupBytes(uint32(0))
	if err != nil {
		return 0, fmt.Errorf("map .rodata: %w", err)
	}
	v := spec.Variables[name]
	if len(data) < int(v.Offset+v.Size()) {
		return 0, errors.New("map .rodata is of another version of xdptcp")
	}
	if v.Size() == 8 {
		return binary.NativeEndian.Uint64(data[v.Offset:]), nil
	}
	return uint64(binary.NativeEndian.Uint32(data[v.Offset:])), nil
}
