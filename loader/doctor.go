// SPDX-License-Identifier: Apache-2.0

package loader

// A Verdict is what a check comes to.
type Verdict string

// The verdicts, from good to bad.
const (
	OK   Verdict = "ok"   // as it should be
	Note Verdict = "note" // good to know, and nothing is the worse for it
	Warn Verdict = "warn" // xdptcp attaches, but degraded
	Fail Verdict = "fail" // xdptcp does not attach, or nothing arrives
)

// A Check is one thing that was looked at.
type Check struct {
	Name    string
	Verdict Verdict
	Found   string // what there is
	Why     string // why it matters, in one sentence without its full stop
	Command string // mends it, or shows more; "" where no command does
}

// is completes a check.
func (c Check) is(v Verdict, found, command string) Check {
	c.Verdict, c.Found, c.Command = v, found, command
	return c
}

// unasked completes a check whose question the kernel did not answer.
func (c Check) unasked(err error) Check {
	return c.is(Note, "can't be looked at ("+err.Error()+")", "")
}

// A Diagnosis is what Diagnose found.
type Diagnosis struct {
	Interface string
	Kernel    string // its release
	Driver    string // "" if it doesn't tell
	// Mode is what Attach would reach: Native, Generic, Auto if that can only be tried, or "" if it
	// would fail.
	Mode     Mode
	ZeroCopy bool // frames would go to AF_XDP without a copy
	Checks   []Check
}

// Verdict is that of the worst check.
func (d *Diagnosis) Verdict() Verdict {
	for _, v := range []Verdict{Fail, Warn, Note} {
		if len(d.Named(v)) > 0 {
			return v
		}
	}
	return OK
}

// Named are the names of the checks with that verdict.
func (d *Diagnosis) Named(v Verdict) (names []string) {
	for _, c := range d.Checks {
		if c.Verdict == v {
			names = append(names, c.Name)
		}
	}
	return names
}

// checks, in the order in which they are told: the kernel first, then the interface. One that does
// not apply returns the zero Check.
var checks = []func(*facts) Check{
	checkCapabilities, checkKernel, checkProgram, checkJIT, checkSockets, checkMemlock, checkMemory,
	checkBPFFS, checkTCX, checkReqsk, checkLiveFrames,
	checkLink, checkAddresses, checkOccupied, checkNative, checkZeroCopy, checkPeer, checkQueues, checkMTU,
	checkLRO, checkGRO, checkRxChecksum, checkVLAN, checkMaster, checkTC, checkFirewall,
}

// Diagnose says what would stop or degrade xdptcp on an interface in the calling thread's network
// namespace. It changes nothing: programs that it loads to see whether the kernel takes them are
// closed again and attached to nothing. The error means that there is no such interface.
func Diagnose(name string) (*Diagnosis, error) {
	f, err := gatherFacts(name)
	if err != nil {
		return nil, err
	}
	return f.diagnose(), nil
}

func (f *facts) diagnose() *Diagnosis {
	d := &Diagnosis{Interface: f.name, Kernel: f.release, Driver: f.driver}
	for _, check := range checks {
		if c := check(f); c.Name != "" {
			d.Checks = append(d.Checks, c)
		}
	}
	if d.Verdict() != Fail {
		d.Mode = f.mode()
		d.ZeroCopy = d.Mode == Native && f.features.act&actZeroCopy != 0
	}
	return d
}

// mode is what Attach would reach, if nothing stops it.
func (f *facts) mode() Mode {
	switch {
	case f.features.err == nil && !f.hasNative(), f.mtu > nativeMTU:
		return Generic
	case f.features.err != nil, f.lro == on, f.mtu > plainMTU && f.driver != "veth":
		return Auto
	}
	return Native
}

// hasNative: the driver runs XDP, and can redirect to AF_XDP.
func (f *facts) hasNative() bool {
	return f.features.act&(actBasic|actRedirect) == actBasic|actRedirect
}
