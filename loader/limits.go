// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

// MaxFlows is the largest capacity of a flow table.
const MaxFlows = 10_000_000

// DefaultReplyLimit is how many replies a second go to one prefix, unless told otherwise.
const DefaultReplyLimit = 50_000

// Limits bound what is done for strangers. The zero value has none.
type Limits struct {
	// Replies bounds SYN/ACKs and RSTs to one /24 or /48, per second. 0: no bound. XDP counts for each RX
	// queue, and prefixes by a hash of 12 bits: it is a cap on reflection, not a measure.
	Replies int
	// Opens bounds the connections that are opened, per second. 0: no bound.
	Opens int
	// ResetBadACKs answers ACKs that prove nothing with a RST; otherwise they are dropped.
	ResetBadACKs bool
	// StrictCookies gives window scale and SACK up for clients without timestamps: their cookie then takes
	// 2^27 forged ACKs to guess instead of 2^24.
	StrictCookies bool
	// RouteReplies sends replies where the routing table says, and not to where the packet came from.
	RouteReplies bool
}

// window is the time in which XDP counts events: limits.h.
const window = time.Duration(1) << (bpf.TickShift + bpf.WindowShift)

// receivers are how many CPUs share an interface's packets, if the NIC spreads them well.
func receivers(queues int) int { return min(queues, runtime.NumCPU()) }

// perWindow is a number per second on the interface as one per window and receiving CPU.
func perWindow(perSecond, receivers int) uint32 {
	if perSecond == 0 {
		return 0
	}
	n := float64(perSecond) * window.Seconds() / float64(receivers)
	return uint32(max(1, math.Round(n)))
}

func (l Limits) check() error {
	for what, n := range map[string]int{"replies": l.Replies, "opens": l.Opens} {
		if n < 0 || n > math.MaxInt32 {
			return fmt.Errorf("limit of %d %s per second: want 0 (none) to %d", n, what, math.MaxInt32)
		}
	}
	return nil
}

func (l Limits) constants(c map[string]any, queues int) {
	c["cfg_reply_cap"] = perWindow(l.Replies, receivers(queues))
	c["cfg_open_cap"] = perWindow(l.Opens, receivers(queues))
	c["cfg_reset"] = l.ResetBadACKs
	c["cfg_reply_fib"] = l.RouteReplies
}

// checkForwarding: the kernel tells routes to XDP only on an interface that is enabled to forward.
func (l Limits) checkForwarding(iface string) error {
	if !l.RouteReplies {
		return nil
	}
	var missing []string
	for _, family := range []string{"ipv4", "ipv6"} {
		// As a path, because the names of interfaces may have dots in them.
		value, err := os.ReadFile("/proc/sys/net/" + family + "/conf/" + iface + "/forwarding")
		switch {
		case errors.Is(err, fs.ErrNotExist): // the kernel, or the interface, has none of this family
		case err != nil:
			return fmt.Errorf("whether %s may forward: %w", iface, err)
		case strings.TrimSpace(string(value)) == "0":
			missing = append(missing, "net."+family+".conf."+strings.ReplaceAll(iface, ".", "/")+".forwarding=1")
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("replies by the routing table need forwarding on %s, without which the kernel tells XDP no routes: sysctl -w %s",
			iface, strings.Join(missing, " "))
	}
	return nil
}
