// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"fmt"
	"os/exec"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// What a SYNPROXY offers in its SYN/ACKs for the server behind it, as in the kernel's selftest.
const (
	synproxyMSS4   = 1460
	synproxyMSS6   = 1440
	synproxyWScale = 7
	synproxyTTL    = 64
)

// A ruleset is netfilter's part, and who makes it.
type ruleset struct {
	tool   []string // the program, its arguments; it reads the rules on stdin
	rules  string
	origin string // Debian's package of the program
	kernel string // what else the kernel must have
}

// synproxyRules are those of the kernel's selftest xdp_synproxy: SYNs are kept from conntrack, so that SYNPROXY
// answers them, if the XDP program has not done it before. It also gets the final ACKs, which conntrack calls
// invalid: it knows no connection that they are of.
//
// IPv6 is not made with nft: the kernel's nft_synproxy has long taken IPv6's TCP checksum for IPv4's (Linux 6.18.44
// does), and drops every frame whose sum is complete and not verified by the driver. The target of xtables is right,
// and as fast.
func synproxyRules(iface string, v6 bool) ruleset {
	if v6 {
		return ruleset{
			tool: []string{"ip6tables-restore"}, origin: "iptables",
			kernel: "CONFIG_IP6_NF_TARGET_SYNPROXY and CONFIG_NETFILTER_XT_TARGET_CT; if they are modules: modprobe -a ip6t_SYNPROXY xt_CT",
			rules: fmt.Sprintf(`*raw
-A PREROUTING -i %[1]s -p tcp --syn --dport %[2]d -j CT --notrack
COMMIT
*filter
-A INPUT -i %[1]s -p tcp --dport %[2]d -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --mss %[3]d --wscale %[4]d --timestamp --sack-perm
-A INPUT -i %[1]s -m conntrack --ctstate INVALID -j DROP
COMMIT
`, iface, port, synproxyMSS6, synproxyWScale),
		}
	}
	return ruleset{
		tool: []string{"nft", "-f", "-"}, origin: "nftables",
		kernel: "CONFIG_NFT_SYNPROXY and CONFIG_NFT_CT; if they are modules: modprobe -a nft_synproxy nft_ct",
		rules: fmt.Sprintf(`table ip rival {
	chain raw {
		type filter hook prerouting priority -300;
		iif %[1]s tcp dport %[2]d tcp flags & (fin | syn | rst | ack) == syn notrack
	}
	chain input {
		type filter hook input priority 0;
		iif %[1]s tcp dport %[2]d ct state invalid,untracked synproxy mss %[3]d wscale %[4]d timestamp sack-perm
		iif %[1]s ct state invalid drop
	}
}
`, iface, port, synproxyMSS4, synproxyWScale),
	}
}

// find finds the program.
func (r ruleset) find() (path string, err error) {
	if path, err = exec.LookPath(r.tool[0]); err != nil {
		return "", fmt.Errorf("flood: SYNPROXY's rules: %w; install %s (vmtest/rivals.sh does)", err, r.origin)
	}
	return path, nil
}

// synproxy puts netfilter's SYNPROXY in front of the server's port, in the lab's namespace and nowhere else.
func (r *rig) synproxy(v6 bool) error {
	set := synproxyRules(r.lab.Server.Iface, v6)
	path, err := set.find()
	if err != nil {
		return err
	}
	c := r.lab.Server.Command(path, set.tool[1:]...)
	c.Stdin = strings.NewReader(set.rules)
	if out, err := c.CombinedOutput(); err != nil {
		complaint, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("flood: make SYNPROXY's rules in the lab with %s: %w: %q; the kernel needs %s; else measure without the rivals %s and %s",
			strings.Join(set.tool, " "), err, complaint, set.kernel, Synproxy, XDPSynproxy)
	}
	if err := r.lab.Server.SetSysctl("net.ipv4.tcp_timestamps", "1"); err != nil {
		return err
	}
	// Or conntrack would make a connection of any ACK. It is there since the rules are, at the latest.
	return r.lab.Server.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "0")
}

// attachXDPSynproxy puts the XDP program of the kernel's selftest on the server's interface.
func (r *rig) attachXDPSynproxy(rival Rival) error {
	fail := func(what string, err error) error {
		return fmt.Errorf("flood: the rival %s of %s: %s: %w", rival.Server, rival.Object, what, err)
	}
	spec, err := rival.spec()
	if err != nil {
		return err
	}
	delete(spec.Programs, "syncookie_tc") // the same for tc
	objects, err := ebpf.NewCollection(spec)
	if err != nil {
		return fail("load", err)
	}
	defer objects.Close() // the link keeps what is attached
	offer := uint64(synproxyMSS4 | synproxyWScale<<16 | synproxyTTL<<24 | synproxyMSS6<<32)
	if err := objects.Maps[synproxyValues].Put(uint32(0), offer); err != nil {
		return fail("set what it offers", err)
	}
	if err := objects.Maps[synproxyPorts].Put(uint32(0), uint16(port)); err != nil {
		return fail("set its port", err)
	}
	return r.gen.attach(r.lab.Server, r.lab.Server.IfIndex, objects.Programs[synproxyProgram], link.XDPDriverMode)
}
