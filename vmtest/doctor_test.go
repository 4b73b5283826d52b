// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// healthyVeth is what the doctor says of an end of a lab with as many queues as there are CPUs. "…" is
// what differs from machine to machine.
const healthyVeth = `
ok    privilege    all that is needed
ok    kernel       …
ok    program      accepted by the verifier
ok    jit          on
ok    af-xdp       there
ok    memlock      CAP_IPC_LOCK: no limit
ok    memory       flow tables about 58 MiB, AF_XDP buffers …, … available
BPFFS
ok    tcx          there
ok    reqsk        there
ok    live-frames  there
ok    link         Ethernet, up, 02:00:5e:00:53:01
ok    addresses    2
ok    xdp          no program on it
ok    native       driver veth: basic, redirect,…
note  zero-copy    not in this driver: without it the kernel copies each frame to and from user space
ok    veth-peer    has an XDP program
ok    queues       … RX, … TX of … rx; … CPUs
ok    mtu          1500
ok    lro          off
ok    gro          …
ok    rx-checksum  on
note  rx-vlan      on: XDP does not see a VLAN tag that the hardware has stripped
      → ethtool -K srv0 rxvlan off
ok    master       none
ok    tc           no programs on ingress
note  firewall     its rules do not apply to what xdptcp takes: XDP comes before netfilter

srv0: native XDP would be reached, without zero-copy
`

// What stands for BPFFS there.
const (
	bpffsMounted = `ok    bpffs        mounted at /sys/fs/bpf
`
	bpffsNotMounted = `note  bpffs        not mounted at /sys/fs/bpf: pinned objects live there
      → mount -t bpf bpf /sys/fs/bpf
`
)

func TestTheDoctorFindsNothingWrongWithAHealthyVeth(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{Queues: min(runtime.NumCPU(), 256)})
	if v, err := features.LinuxVersionCode(); err != nil || v < 6<<16|9<<8 {
		t.Skipf("Linux %#x, %v: older ones have more to say", v, err)
	}
	stdout, stderr, code := run(t, l.Server, "doctor", "srv0")
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	bpffs := bpffsNotMounted
	if strings.Contains(stdout, bpffsMounted) {
		bpffs = bpffsMounted
	}
	want := strings.Replace(strings.TrimPrefix(healthyVeth, "\n"), "BPFFS\n", bpffs, 1)
	if !regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*") + "$").MatchString(stdout) {
		t.Errorf("it says\n%s\nwant\n%s", stdout, want)
	}
}

// diagnosis is the form of `doctor --json`, written down here anew: it is an interface.
type diagnosis struct {
	Interface string  `json:"interface"`
	Kernel    string  `json:"kernel"`
	Driver    string  `json:"driver"`
	Verdict   string  `json:"verdict"`
	Mode      string  `json:"mode"`
	ZeroCopy  bool    `json:"zero_copy"`
	Checks    []check `json:"checks"`
	code      int     // the exit code
}

type check struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Found   string `json:"found"`
	Why     string `json:"why"`
	Command string `json:"command"`
}

// named is the check of that name.
func (d *diagnosis) named(t *testing.T, name string) check {
	t.Helper()
	for _, c := range d.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %q in %+v", name, d)
	return check{}
}

// doctor runs `xdptcp doctor --json` on the server.
func doctor(t *testing.T, l *lab.Lab, iface string) *diagnosis {
	t.Helper()
	return diagnose(t, l.Server.Command(product, "doctor", iface, "--json"))
}

func diagnose(t *testing.T, c *lab.Cmd) *diagnosis {
	t.Helper()
	stdout, stderr, code := finish(t, c)
	d := &diagnosis{code: code}
	decoder := json.NewDecoder(strings.NewReader(stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(d); err != nil {
		t.Fatalf("doctor --json: %v:\n%s%s", err, stdout, stderr)
	}
	want := map[string]int{"ok": 0, "note": 0, "warn": 4, "fail": 1}[d.Verdict]
	if code != want {
		t.Errorf("verdict %q with exit code %d, want %d", d.Verdict, code, want)
	}
	var failed []string
	for _, k := range d.Checks {
		if k.Verdict == "fail" {
			failed = append(failed, k.Name)
		}
	}
	complaint := ""
	if len(failed) > 0 {
		complaint = fmt.Sprintf("xdptcp: doctor %s: stopped by: %s\n", d.Interface, strings.Join(failed, ", "))
	}
	if stderr != complaint {
		t.Errorf("on stderr %q, want %q", stderr, complaint)
	}
	return d
}

// theirs loads an XDP program of somebody else.
func theirs(t *testing.T) *ebpf.Program {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	return prog
}

// linked attaches it to the server's interface with a bpf_link, which only its owner or bpftool takes off.
func linked(flags link.XDPAttachFlags) func(*testing.T, *lab.Lab) {
	return func(t *testing.T, l *lab.Lab) {
		t.Helper()
		var held link.Link
		if err := l.Server.Do(func() (err error) {
			held, err = link.AttachXDP(link.XDPOptions{Program: theirs(t), Interface: l.Server.IfIndex, Flags: flags})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { held.Close() })
	}
}

// loose attaches it to an interface of the server as ip link does.
func loose(iface string, flags link.XDPAttachFlags) func(*testing.T, *lab.Lab) {
	return func(t *testing.T, l *lab.Lab) {
		t.Helper()
		if err := l.Server.Do(func() error {
			dev, err := netlink.LinkByName(iface)
			if err != nil {
				return err
			}
			return netlink.LinkSetXdpFdWithFlags(dev, theirs(t).FD(), int(flags))
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// shell has a line of shell run inside the server.
func shell(line string) func(*testing.T, *lab.Lab) {
	return func(t *testing.T, l *lab.Lab) {
		t.Helper()
		if out, err := l.Server.Command("sh", "-e", "-c", line).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
}

func TestTheDoctorsCommandsMendWhatItFinds(t *testing.T) {
	for _, c := range []struct {
		what    string
		options lab.Options
		spoil   func(t *testing.T, l *lab.Lab)
		name    string
		verdict string
		found   string
		command string // "" for one that holds a number
		mode    string // before it is mended
	}{
		{"MTU 9000", lab.Options{MTU: 9000}, nil,
			"mtu", "fail", "9000, above the AF_XDP buffer", "ip link set srv0 mtu 1500", "none"},
		{"an MTU above native XDP's", lab.Options{MTU: 3507}, nil,
			"mtu", "warn", "3507, above native XDP's 3506", "ip link set srv0 mtu 1500", "generic"},
		{"an interface that is down", lab.Options{}, shell("ip link set srv0 down"),
			"link", "fail", "down", "ip link set srv0 up", "none"},
		{"somebody else's native program", lab.Options{}, linked(link.XDPDriverMode),
			"xdp", "fail", `name "foreign"`, "", "none"},
		{"somebody else's generic program", lab.Options{}, linked(link.XDPGenericMode),
			"xdp", "fail", "generic program", "", "none"},
		{"a program without a link", lab.Options{}, loose("srv0", link.XDPDriverMode),
			"xdp", "fail", `native program id`, "ip link set srv0 xdp off", "none"},
		{"a generic program without a link", lab.Options{}, loose("srv0", link.XDPGenericMode),
			"xdp", "fail", `generic program id`, "ip link set srv0 xdpgeneric off", "none"},
		{"fewer queues than the peer", lab.Options{Queues: 2}, shell("ethtool -L srv0 rx 1"),
			"native", "warn", "driver veth: none as it is", "ethtool -L srv0 rx 2", "generic"},
		{"stripped VLAN tags", lab.Options{}, nil,
			"rx-vlan", "note", "on", "ethtool -K srv0 rxvlan off", "native"},
		{"no checksums", lab.Options{}, shell("ethtool -K srv0 rx off"),
			"rx-checksum", "note", "off", "ethtool -K srv0 rx on", "native"},
		{"GRO in generic mode", lab.Options{MTU: 3507}, shell("ethtool -K srv0 gro on"),
			"gro", "note", "on", "ethtool -K srv0 gro off", "generic"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, c.options)
			if c.spoil != nil {
				c.spoil(t, l)
			}
			d := doctor(t, l, "srv0")
			got := d.named(t, c.name)
			if got.Verdict != c.verdict || !strings.Contains(got.Found, c.found) || d.Mode != c.mode {
				t.Fatalf("%+v, mode %s; want %s %q, mode %s", got, d.Mode, c.verdict, c.found, c.mode)
			}
			if c.command != "" && got.Command != c.command {
				t.Errorf("command %q, want %q", got.Command, c.command)
			}
			shell(got.Command)(t, l)
			d = doctor(t, l, "srv0")
			mode := "native"
			if c.verdict == "note" {
				mode = c.mode // it was not that that stood in the way
			}
			if got := d.named(t, c.name); got.Verdict != "ok" || d.Mode != mode {
				t.Errorf("mended, it says %+v, mode %s, want ok, mode %s", got, d.Mode, mode)
			}
		})
	}
}

func TestWhatTheDoctorForetellsIsWhatAttachDoes(t *testing.T) {
	for _, c := range []struct {
		mtu  int
		mode string
	}{{1500, "native"}, {3506, "native"}, {3507, "generic"}, {3818, "generic"}, {3819, "none"}} {
		t.Run(fmt.Sprint("MTU ", c.mtu), func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{MTU: c.mtu})
			if d := doctor(t, l, "srv0"); d.Mode != c.mode || d.Driver != "veth" || d.ZeroCopy {
				t.Errorf("it foretells %s, want %s: %+v", d.Mode, c.mode, d)
			}
			if c.mode == "none" {
				refused(t, l.Server.Command(product, "attach", "srv0"), 1, "MTU")
				return
			}
			if d := attach(t, l); !strings.Contains(d.ready, "mode="+c.mode) {
				t.Errorf("attach reaches %q", d.ready)
			}
		})
	}
}

func TestTheDoctorKnowsAnInterfaceWithoutNativeXDP(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	shell("ip link add br0 type bridge && ip link set br0 up && ip link set srv0 master br0")(t, l)
	d := doctor(t, l, "br0")
	if got := d.named(t, "native"); got.Verdict != "warn" || d.Mode != "generic" || d.code != 4 {
		t.Errorf("of a bridge: %+v, mode %s, exit code %d", got, d.Mode, d.code)
	}
	if got := d.named(t, "addresses"); got.Verdict != "warn" {
		t.Errorf("of a bridge without addresses: %+v", got)
	}
	d = doctor(t, l, "srv0")
	if got := d.named(t, "master"); got.Verdict != "warn" || got.Found != "br0, a bridge" || got.Command != "xdptcp attach br0" {
		t.Errorf("of its port: %+v", got)
	}
	stdout, _, code := run(t, l.Server, "doctor", "br0")
	if code != 4 || !strings.HasSuffix(stdout, "\nbr0: only generic XDP would be reached, at a fraction of native speed, without zero-copy; degraded by: addresses, native\n") {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
}

func TestAVethPeerWithoutAProgramIsWorthAWarningAndGenericModeMendsIt(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{PlainClient: true})
	got := doctor(t, l, "srv0").named(t, "veth-peer")
	if got.Verdict != "warn" || got.Command != "xdptcp attach srv0 --mode generic" {
		t.Errorf("%+v", got)
	}
	// True on both counts: natively no SYN/ACK arrives, and with the command it does.
	d := attach(t, l)
	if c, err := dialFrom(l, families(l)[0].from(0), families(l)[0].addr(8080), 2*time.Second); err == nil {
		c.Close()
		t.Error("connected in native mode: there was nothing to warn of")
	}
	d.stop()
	attach(t, l, "--mode", "generic")
	if _, err := fetch(httpClient(t, l, patience), families(l)[0].url("/")); err != nil {
		t.Errorf("in generic mode: %v", err)
	}
}

func TestTheDoctorLooksForANativeProgramAtAVethPeerInTheSameNamespace(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	shell("ip link add here type veth peer name there && ip link set here up && ip link set there up")(t, l)
	expect := func(verdict string) {
		t.Helper()
		if got := doctor(t, l, "here").named(t, "veth-peer"); got.Verdict != verdict {
			t.Errorf("%+v, want %s", got, verdict)
		}
	}
	expect("warn")
	loose("there", link.XDPGenericMode)(t, l) // sets up no receive loop
	expect("warn")
	shell("ip link set there xdpgeneric off")(t, l)
	loose("there", link.XDPDriverMode)(t, l)
	expect("ok")
}

func TestTheDoctorKnowsWhetherTheBPFFilesystemIsMounted(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	inside := func(line string) check {
		t.Helper()
		// A mount namespace of its own: nobody else sees it.
		return diagnose(t, l.Server.Command("unshare", "--mount", "sh", "-c", line+`; exec "$0" doctor srv0 --json`, product)).named(t, "bpffs")
	}
	got := inside("while umount /sys/fs/bpf 2>/dev/null; do :; done")
	if got.Verdict != "note" {
		t.Fatalf("not mounted: %+v", got)
	}
	if got := inside(got.Command); got.Verdict != "ok" {
		t.Errorf("mounted: %+v", got)
	}
}

func TestTheDoctorKnowsWhenTheLimitOnLockedMemoryIsTooLow(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	limited := func(args string) *lab.Cmd {
		return l.Server.Command("setpriv", "--bounding-set", "-ipc_lock", "sh", "-e", "-c", `ulimit -l 64; exec "$0" `+args, product)
	}
	got := diagnose(t, limited("doctor srv0 --json")).named(t, "memlock")
	if got.Verdict != "fail" || got.Found != "limit 64 KiB, needed 12 MiB" {
		t.Errorf("%+v", got)
	}
	refused(t, limited("attach srv0"), 1, "locked memory") // as foretold
}

func TestTheDoctorSeesAnXDPTCPThatServesAndLeavesItAlone(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	id := xdpProgram(t, l.Server)
	got := doctor(t, l, "srv0")
	if c := got.named(t, "xdp"); c.Verdict != "note" || c.Found != fmt.Sprintf("native program id %d, name %q", id, "xdptcp") || got.code != 0 {
		t.Errorf("exit code %d, %+v", got.code, c)
	}
	if now := xdpProgram(t, l.Server); now != id {
		t.Errorf("XDP program %d is attached, was %d", now, id)
	}
	if _, err := fetch(httpClient(t, l, patience), families(l)[0].url("/")); err != nil {
		t.Error(err)
	}
	d.stop()
}

func TestTheDoctorNamesProgramsOnTC(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "after_xdp", Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}, // TCX_NEXT
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	if err := l.Server.Do(func() error {
		clsact := netlink.QdiscAttrs{LinkIndex: l.Server.IfIndex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
		if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: clsact}); err != nil {
			return err
		}
		return netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Server.IfIndex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          prog.FD(), Name: "classic", DirectAction: true,
		})
	}); err != nil {
		t.Fatal(err)
	}
	if got := doctor(t, l, "srv0").named(t, "tc"); got.Verdict != "note" || got.Found != "classic" {
		t.Errorf("on clsact: %+v", got)
	}
	var tcx link.Link
	if err := l.Server.Do(func() (err error) {
		tcx, err = link.AttachTCX(link.TCXOptions{Interface: l.Server.IfIndex, Program: prog, Attach: ebpf.AttachTCXIngress})
		return err
	}); err != nil {
		t.Skipf("tcx: %v", err)
	}
	defer tcx.Close()
	if got := doctor(t, l, "srv0").named(t, "tc"); got.Verdict != "note" || got.Found != "after_xdp, classic" {
		t.Errorf("on tcx too: %+v", got)
	}
}

func TestTheDoctorChangesNothing(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	look := func() string {
		out, err := l.Server.Command("sh", "-c", "ip -details link; ip addr; ethtool -k srv0; ethtool -l srv0; mount; sysctl -a 2>/dev/null | grep -E '^net.*(bpf|conf|core)'").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return regexp.MustCompile(`(valid|preferred)_lft \S+`).ReplaceAllString(string(out), "")
	}
	before := look()
	doctor(t, l, "srv0")
	if after := look(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	expectNothing(t, l)
}

func TestTheDoctorWithoutPrivilegeSaysSoAndWhatItCanSee(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	c := l.Server.Command(copyForNobody(t), "doctor", "srv0", "--json")
	c.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	d := diagnose(t, c)
	if got := d.named(t, "privilege"); got.Verdict != "fail" || got.Found != "missing CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF" || got.Command != "sudo xdptcp attach srv0" {
		t.Errorf("%+v", got)
	}
	for name, want := range map[string]string{"program": "note", "jit": "note", "af-xdp": "note", "link": "ok", "mtu": "ok", "native": "ok"} {
		if got := d.named(t, name); got.Verdict != want {
			t.Errorf("%+v, want %s", got, want)
		}
	}
}

func TestTheDoctorOfNoInterfaceNamesThoseThatThereAre(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	refused(t, l.Server.Command(product, "doctor", "eth9"), 1, `"eth9"`, "srv0")
	d := doctor(t, l, "lo")
	if got := d.named(t, "link"); got.Verdict != "fail" || got.Found != `of type "loopback", not Ethernet` {
		t.Errorf("of the loopback: %+v", got)
	}
}
