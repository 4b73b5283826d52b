// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
)

// A Rival is a server that xdptcp is compared with: Kernel, Synproxy or XDPSynproxy.
type Rival struct {
	Server Server
	Object string // of XDPSynproxy: the file with its BPF programs
}

// ParseRival reads a rival: "kernel", "synproxy", "xdp_synproxy=FILE".
func ParseRival(text string) (Rival, error) {
	name, object, named := strings.Cut(text, "=")
	switch r := (Rival{Server(name), object}); {
	case r.Server == XDPSynproxy && object == "":
		return Rival{}, fmt.Errorf("rival %q: want %s=FILE, the BPF object that vmtest/rivals.sh makes", text, name)
	case (r.Server == Kernel || r.Server == Synproxy) && named:
		return Rival{}, fmt.Errorf("rival %q: %s takes no file", text, name)
	case r.known():
		return r, nil
	}
	return Rival{}, fmt.Errorf("rival %q: there are %s, %s and %s=FILE", text, Kernel, Synproxy, XDPSynproxy)
}

func (r Rival) known() bool {
	return r.Server == Kernel || r.Server == Synproxy || r.Server == XDPSynproxy
}

// check finds out what can be known before minutes have been spent on others.
func (r Rival) check(v6 bool) error {
	if !r.known() {
		return fmt.Errorf("flood: there is no rival %q", r.Server)
	}
	if r.Server == XDPSynproxy {
		if _, err := r.spec(); err != nil {
			return err
		}
	}
	if r.Server == Kernel {
		return nil
	}
	_, err := synproxyRules("", v6).find()
	return err
}

// The names in XDPSynproxy's object.
const (
	synproxyProgram = "syncookie_xdp"
	synproxyValues  = "values"        // [0]: what SYN/ACKs offer; [1]: how many there were
	synproxyPorts   = "allowed_ports" // in host order, up to the first 0
)

// spec reads XDPSynproxy's object.
func (r Rival) spec() (*ebpf.CollectionSpec, error) {
	spec, err := ebpf.LoadCollectionSpec(r.Object)
	if err != nil {
		return nil, fmt.Errorf("flood: the rival %s: read its object: %w; vmtest/rivals.sh makes it and prints its path", r.Server, err)
	}
	if spec.Programs[synproxyProgram] == nil || spec.Maps[synproxyValues] == nil || spec.Maps[synproxyPorts] == nil {
		return nil, fmt.Errorf("flood: the rival %s: %s is another object: no program %s with maps %s and %s; vmtest/rivals.sh makes the right one",
			r.Server, r.Object, synproxyProgram, synproxyValues, synproxyPorts)
	}
	return spec, nil
}
