// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// ringLosses are the frames that the veth rings between the two ends had no room for: on the way from this
// host, and on the way to it. veth counts them for the one as not sent, for the other as not received.
func ringLosses(h *lab.Host) (from, to uint64, err error) {
	err = h.Do(func() error {
		dev, err := netlink.LinkByIndex(h.IfIndex)
		if err != nil {
			return fmt.Errorf("flood: %s: statistics of %s: %w", h.Name, h.Iface, err)
		}
		from, to = dev.Attrs().Statistics.TxDropped, dev.Attrs().Statistics.RxDropped
		return nil
	})
	return from, to, err
}
