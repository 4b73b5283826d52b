// SPDX-License-Identifier: Apache-2.0

package afxdp

import "fmt"

// A Mode is a wish about who moves the frames.
type Mode uint8

const (
	Auto Mode = iota // zero-copy if driver and kernel can, otherwise copy
	Copy             // the kernel copies each frame into and out of the UMEM; every driver can
	Zero             // the device reads and writes the UMEM itself, or Open fails
)

func (m Mode) String() string {
	switch m {
	case Auto:
		return "auto"
	case Copy:
		return "copy"
	case Zero:
		return "zero-copy"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// What a Config's zero fields stand for.
const (
	DefaultFrameSize = 2048
	DefaultRxFrames  = 4096 // a fill ring of 512 loses frames on bulk receive
	DefaultTxFrames  = 2048
)

// Config tells Open what to open.
type Config struct {
	IfIndex int // the device, in the caller's network namespace
	Queue   int

	// FrameSize is the size of a chunk in bytes: 2048 or 4096. The kernel keeps the first 256 of a
	// received one as headroom, so 2048 holds frames up to 1792 bytes.
	FrameSize int

	// RxFrames and TxFrames are how many chunks each direction has: powers of two. The rings are
	// sized to hold them all.
	RxFrames, TxFrames int

	ZeroCopy Mode

	// Bursts makes TransmitBurst possible in copy mode. The kernel leaves a burst's checksums, and the cutting itself, to a device
	// that says it can: one that does not really (veth, and others whose peer is in the same memory) passes on unfinished frames.
	Bursts bool
}

const maxFrames = 1 << 20 // a gigabyte or more: surely a mistake

func (c Config) withDefaults() (Config, error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.FrameSize, DefaultFrameSize)
	def(&c.RxFrames, DefaultRxFrames)
	def(&c.TxFrames, DefaultTxFrames)
	switch {
	case c.IfIndex <= 0:
		return c, fmt.Errorf("afxdp: IfIndex %d: not an interface index", c.IfIndex)
	case c.Queue < 0:
		return c, fmt.Errorf("afxdp: Queue %d: must not be negative", c.Queue)
	case c.FrameSize != 2048 && c.FrameSize != 4096:
		return c, fmt.Errorf("afxdp: FrameSize %d: must be 2048 or 4096", c.FrameSize)
	case !isFrameCount(c.RxFrames):
		return c, fmt.Errorf("afxdp: RxFrames %d: must be a power of two up to %d", c.RxFrames, maxFrames)
	case !isFrameCount(c.TxFrames):
		return c, fmt.Errorf("afxdp: TxFrames %d: must be a power of two up to %d", c.TxFrames, maxFrames)
	case c.ZeroCopy > Zero:
		return c, fmt.Errorf("afxdp: ZeroCopy %v: must be Auto, Copy or Zero", c.ZeroCopy)
	}
	return c, nil
}

func isFrameCount(n int) bool { return n > 0 && n <= maxFrames && n&(n-1) == 0 }
