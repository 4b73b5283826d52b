// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/xdptcp/xdptcp/loader"
)

// limitFlags are the flags of `attach` that become loader.Limits.
type limitFlags struct {
	limits          loader.Limits
	onBadACK, reply string
}

func (l *limitFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&l.limits.Replies, "reply-limit", loader.DefaultReplyLimit, "at most `N` SYN/ACKs and RSTs a second to one /24 or /48; 0 for no limit")
	flags.IntVar(&l.limits.Opens, "open-limit", 0, "at most `N` connections opened a second; 0 for no limit")
	flags.StringVar(&l.onBadACK, "on-bad-ack", "drop", "what an ACK that proves nothing gets: drop or reset")
	flags.BoolVar(&l.limits.StrictCookies, "strict-cookies", false, "clients without timestamps give up window scale and SACK for cookies that are harder to guess")
	flags.StringVar(&l.reply, "reply", "same", "the way of replies: same as the packet came, or fib, what the routing table says")
}

func (l *limitFlags) read() (loader.Limits, error) {
	for flag, n := range map[string]int{"reply-limit": l.limits.Replies, "open-limit": l.limits.Opens} {
		if n < 0 || n > math.MaxInt32 {
			return l.limits, errUsage{fmt.Errorf("--%s %d: want 0 (no limit) to %d", flag, n, math.MaxInt32)}
		}
	}
	switch l.onBadACK {
	case "drop", "reset":
		l.limits.ResetBadACKs = l.onBadACK == "reset"
	default:
		return l.limits, errUsage{fmt.Errorf("--on-bad-ack %q: want drop or reset", l.onBadACK)}
	}
	switch l.reply {
	case "same", "fib":
		l.limits.RouteReplies = l.reply == "fib"
	default:
		return l.limits, errUsage{fmt.Errorf("--reply %q: want same or fib", l.reply)}
	}
	return l.limits, nil
}
