// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/userspace/afxdp"
)

func checkCapabilities(f *facts) Check {
	c := Check{Name: "privilege", Why: "attaching loads BPF programs and opens AF_XDP sockets"}
	if len(f.missing) > 0 {
		return c.is(Fail, "missing "+strings.Join(f.missing, ", "), "sudo xdptcp attach "+f.name)
	}
	return c.is(OK, "all that is needed", "")
}

func checkKernel(f *facts) Check {
	c := Check{Name: "kernel", Why: "xdptcp is made for Linux 6.1 and later"}
	if f.version < 6<<16|1<<8 {
		return c.is(Warn, f.release, "")
	}
	return c.is(OK, f.release, "")
}

func checkProgram(f *facts) Check {
	c := Check{Name: "program", Why: "only what this kernel's verifier accepts can be attached"}
	switch {
	case f.program == nil:
		return c.is(OK, "accepted by the verifier", "")
	case len(f.missing) > 0:
		return c.unasked(f.program)
	case absent(f.program):
		return c.is(Fail, "not for this kernel: "+f.program.Error(), "")
	}
	return c.is(Fail, explainLoad(f.program).Error(), "")
}

func checkJIT(f *facts) Check {
	c := Check{Name: "jit", Why: "the BPF interpreter is several times slower"}
	switch {
	case f.program != nil:
		return c.unasked(f.program)
	case !f.jit:
		return c.is(Warn, "off", "sysctl -w net.core.bpf_jit_enable=1")
	}
	return c.is(OK, "on", "")
}

func checkSockets(f *facts) Check {
	c := Check{Name: "af-xdp", Why: "established flows reach user space by AF_XDP sockets"}
	switch {
	case f.afxdp == nil:
		return c.is(OK, "there", "")
	case absent(f.afxdp):
		return c.is(Fail, "not in this kernel (CONFIG_XDP_SOCKETS)", "")
	case len(f.missing) > 0:
		return c.unasked(f.afxdp)
	}
	return c.is(Fail, "a socket is refused: "+f.afxdp.Error(), "")
}

// umemBytes is the memory of all the interface's sockets.
func (f *facts) umemBytes() uint64 {
	size, err := f.frameSize()
	if err != nil {
		return 0 // the MTU's check tells
	}
	return uint64(f.queues) * uint64(size) * (afxdp.DefaultRxFrames + afxdp.DefaultTxFrames)
}

func (f *facts) frameSize() (int, error) { return (&netdev{name: f.name, mtu: f.mtu}).frameSize() }

// checkMemlock: BPF is charged to the limit below Linux 5.11 only, and the loader lifts it there; UMEM
// is, to this day.
func checkMemlock(f *facts) Check {
	c := Check{Name: "memlock", Why: "without CAP_IPC_LOCK, AF_XDP buffers count as locked memory"}
	need := f.umemBytes()
	switch {
	case f.lockFreely:
		return c.is(OK, "CAP_IPC_LOCK: no limit", "")
	case f.memlock == unix.RLIM_INFINITY:
		return c.is(OK, "no limit", "")
	case f.memlock < need:
		return c.is(Fail, fmt.Sprintf("limit %s, needed %s", inBytes(f.memlock), inBytes(need)), "ulimit -l unlimited")
	}
	return c.is(OK, fmt.Sprintf("limit %s, needed %s", inBytes(f.memlock), inBytes(need)), "")
}

func checkMemory(f *facts) Check {
	c := Check{Name: "memory", Why: "the kernel allocates the flow tables in full when they are made"}
	tables, err := flowTableBytes(DefaultFlows, f.possibleCPUs)
	if err != nil {
		return c.unasked(err)
	}
	umem := f.umemBytes()
	found := fmt.Sprintf("flow tables about %s, AF_XDP buffers %s", inBytes(tables), inBytes(umem))
	if f.memAvailable == 0 {
		return c.is(Note, found+", available not known", "free -m")
	}
	found += fmt.Sprintf(", %s available", inBytes(f.memAvailable))
	fewer := fmt.Sprintf("xdptcp attach %s --flows %d", f.name, DefaultFlows/8)
	switch need := tables + umem; {
	case need > f.memAvailable:
		return c.is(Fail, found, fewer)
	case need > f.memAvailable/2:
		return c.is(Warn, found, fewer)
	}
	return c.is(OK, found, "")
}

func inBytes(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

func checkBPFFS(f *facts) Check {
	c := Check{Name: "bpffs", Why: "pinned objects live there"}
	if !f.bpffs {
		return c.is(Note, "not mounted at "+bpffsPath, "mount -t bpf bpf "+bpffsPath)
	}
	return c.is(OK, "mounted at "+bpffsPath, "")
}

func checkTCX(f *facts) Check {
	return checkFeature("tcx", "Linux 6.6", "handing connections to the kernel's TCP needs it", f.tcxErr)
}

func checkReqsk(f *facts) Check {
	return checkFeature("reqsk", "bpf_sk_assign_tcp_reqsk, Linux 6.9", "handing connections to the kernel's TCP needs it", f.reqsk)
}

func checkLiveFrames(f *facts) Check {
	return checkFeature("live-frames", "Linux 5.18", "sending load from this host with BPF_PROG_RUN needs them", f.liveFrames)
}

// checkFeature is of something that serving itself can do without.
func checkFeature(name, what, why string, answer error) Check {
	c := Check{Name: name, Why: why}
	switch {
	case answer == nil:
		return c.is(OK, "there", "")
	case absent(answer):
		return c.is(Note, "not in this kernel ("+what+")", "")
	}
	return c.unasked(answer)
}

func checkFirewall(*facts) Check {
	c := Check{Name: "firewall", Why: "XDP comes before netfilter"}
	return c.is(Note, "its rules do not apply to what xdptcp takes", "")
}
