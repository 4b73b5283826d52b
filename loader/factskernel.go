// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
)

// kernelFacts are what holds for every interface. An answer is nil if the kernel has what was asked
// for; see absent for the others.
type kernelFacts struct {
	missing      []string // capabilities
	lockFreely   bool     // CAP_IPC_LOCK
	memlock      uint64   // RLIMIT_MEMLOCK, bytes
	release      string   // uname -r
	version      uint32   // major<<16 | minor<<8 | patch
	cpus         int      // that this process may run on
	possibleCPUs int
	memAvailable uint64 // bytes; 0: not known
	bpffs        bool   // mounted at bpffsPath

	program    error // answer: xdptcp's own program, verified
	jit        bool  // meaningful if program is nil
	afxdp      error // answer: an AF_XDP socket
	reqsk      error // answer: bpf_sk_assign_tcp_reqsk
	liveFrames error // answer: BPF_F_TEST_XDP_LIVE_FRAMES
}

const bpffsPath = "/sys/fs/bpf"

func readKernel() (k kernelFacts) {
	if caps, err := capabilities(); err == nil {
		k.missing, k.lockFreely = caps.missing(), caps.has(unix.CAP_IPC_LOCK)
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil {
		k.memlock = limit.Cur
	}
	var uname unix.Utsname
	if unix.Uname(&uname) == nil {
		k.release = unix.ByteSliceToString(uname.Release[:])
	}
	k.version, _ = features.LinuxVersionCode() // 0 is older than all, and told as such
	k.cpus = runtime.NumCPU()
	k.possibleCPUs = ebpf.MustPossibleCPU()
	k.memAvailable = readMemAvailable()
	var fs unix.Statfs_t
	k.bpffs = unix.Statfs(bpffsPath, &fs) == nil && uint32(fs.Type) == unix.BPF_FS_MAGIC
	k.jit, k.program = tryProgram()
	k.afxdp = trySocket()
	k.reqsk = findKfunc("bpf_sk_assign_tcp_reqsk")
	k.liveFrames = tryLiveFrames()
	return k
}

// readMemAvailable is the memory that can be had without swapping, in bytes: proc_meminfo(5).
func readMemAvailable() uint64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kib uint64
	_, line, _ := bytes.Cut(text, []byte("MemAvailable:"))
	if _, err := fmt.Sscan(string(line), &kib); err != nil {
		return 0
	}
	return kib << 10
}

// helpers that the program calls and that came late to the kernel: 5.11, 5.17, 5.18.
var helpers = []asm.BuiltinFunc{asm.FnKtimeGetCoarseNs, asm.FnLoop, asm.FnXdpLoadBytes}

// tryProgram has the kernel verify xdptcp's program, with tables of one flow.
func tryProgram() (jit bool, err error) {
	if err := features.HaveProgramType(ebpf.XDP); err != nil {
		return false, fmt.Errorf("XDP: %w", err)
	}
	for _, fn := range helpers {
		if err := features.HaveProgramHelper(ebpf.XDP, fn); err != nil {
			return false, fmt.Errorf("the helper %v: %w", fn, err)
		}
	}
	spec, err := bpf.Load()
	if err != nil {
		return false, err
	}
	spec.Maps["flows4"].MaxEntries, spec.Maps["flows6"].MaxEntries = 1, 1
	var objects bpf.Objects
	if err := spec.LoadAndAssign(&objects, nil); err != nil {
		return false, err
	}
	defer objects.Close()
	info, err := objects.Xdptcp.Info()
	if err != nil {
		return false, err
	}
	_, err = info.JitedSize() // fails if there is no machine code
	return err == nil, nil
}

func trySocket() error {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT):
		return ebpf.ErrNotSupported
	case err != nil:
		return err
	}
	return unix.Close(fd)
}

// findKfunc looks a function up in the kernel's own BTF.
func findKfunc(name string) error {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("the kernel's BTF: %w", err)
	}
	var fn *btf.Func
	if err := spec.TypeByName(name, &fn); errors.Is(err, btf.ErrNotFound) {
		return ebpf.ErrNotSupported
	} else if err != nil {
		return err
	}
	return nil
}

// tryLiveFrames sends one frame through a program that drops it.
func tryLiveFrames() error {
	drop, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "xdptcp_doctor", Type: ebpf.XDP, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}, // XDP_DROP
	})
	if err != nil {
		return err
	}
	defer drop.Close()
	_, err = drop.Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: 1, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES})
	if errors.Is(err, unix.EINVAL) {
		return ebpf.ErrNotSupported
	}
	return err
}

// flowTableBytes estimates the memory of the two flow tables, which the kernel allocates in full at
// once: an element of kernel/bpf/hashtab.c for each flow and possible CPU (48 bytes, key and value rounded up
// to 8), and a bucket of 16 bytes for each, up to a power of two.
func flowTableBytes(flows, possibleCPUs int) (sum uint64, err error) {
	spec, err := bpf.Load()
	if err != nil {
		return 0, err
	}
	round8 := func(n uint32) uint64 { return (uint64(n) + 7) &^ 7 }
	for _, table := range []string{"flows4", "flows6"} {
		m := spec.Maps[table]
		element := 48 + round8(m.KeySize) + round8(m.ValueSize)
		sum += uint64(flows+possibleCPUs)*element + 16<<bits.Len(uint(flows-1))
	}
	return sum, nil
}
