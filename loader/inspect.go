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
	"github.com/vishvananda/netlink/nl"

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
	Queues    int      // RX queues served
	Flows     int      // capacity of each flow table
	Reasons   [bpf.ReasonCount]uint64
	Shield    Shield // of kernel services; "": there are none
	ShieldUp  bool   // with ShieldAuto: SYNs are so many that XDP answers them
}

// ErrNotAttached says that there is no xdptcp on the interface.
var ErrNotAttached = errors.New("not attached")

// Inspect reads the state of an interface in the calling thread's network namespace, or with "" of
// all that have an xdptcp. It changes nothing.
func Inspect(name string) ([]State, error) {
	var links []netlink.Link
	if name == "" {
		var err error
		if links, err = netlink.LinkList(); err != nil {
			return nil, fmt.Errorf("listing interfaces: %w", err)
		}
	} else {
		link, err := netlink.LinkByName(name)
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return nil, fmt.Errorf("no such interface: %q (there are: %s)", name, interfaceNames())
		}
		if err != nil {
			return nil, fmt.Errorf("interface %q: %w", name, err)
		}
		links = []netlink.Link{link}
	}
	var states []State
	for _, link := range links {
		xdp := link.Attrs().Xdp
		if xdp == nil || !xdp.Attached {
			continue
		}
		s, err := inspect(link.Attrs(), xdp)
		if errors.Is(err, ErrNotAttached) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("interface %q: %w", link.Attrs().Name, err)
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

func inspect(attrs *netlink.LinkAttrs, xdp *netlink.LinkXdp) (State, error) {
	s := State{Interface: attrs.Name, Index: attrs.Index, ProgramID: xdp.ProgId, Mode: Native}
	if xdp.AttachMode == nl.XDP_ATTACHED_SKB {
		s.Mode = Generic
	}
	prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(xdp.ProgId))
	if err != nil {
		return s, fmt.Errorf("XDP program id %d: %w (root may look)", xdp.ProgId, err)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return s, fmt.Errorf("XDP program id %d: %w", xdp.ProgId, err)
	}
	if info.Name != programName {
		return s, ErrNotAttached
	}
	if since, ok := info.LoadTime(); ok {
		s.Loaded = bootTime().Add(since)
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		if err := s.readMap(id); err != nil {
			return s, err
		}
	}
	return s, s.readShield(ids)
}

// readMap takes what a map of the program says.
func (s *State) readMap(id ebpf.MapID) error {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return fmt.Errorf("map id %d: %w", id, err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return fmt.Errorf("map id %d: %w", id, err)
	}
	switch info.Name {
	case "counters":
		s.Reasons, err = readCounters(m)
	case "flows4":
		s.Flows = int(m.MaxEntries())
	case "sockets":
		s.Queues = int(m.MaxEntries())
	case ".rodata":
		s.Services, err = readServices(m)
	}
	return err
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
func (s *State) readShield(ids []ebpf.MapID) error {
	var shields, rodata *ebpf.Map
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return fmt.Errorf("map id %d: %w", id, err)
		}
		defer m.Close()
		info, err := m.Info()
		if err != nil {
			return fmt.Errorf("map id %d: %w", id, err)
		}
		switch info.Name {
		case "shields":
			shields = m
		case ".rodata":
			rodata = m
		}
	}
	if shields == nil || rodata == nil {
		return errors.New("the program is of another version of xdptcp")
	}
	kernel, err := readConstant(rodata, "cfg_kernel")
	if err != nil || kernel == 0 {
		return err
	}
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
