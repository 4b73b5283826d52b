// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// RingLosses are the frames that the pair's rings between the two ends have had no room for so far: on the way from this
// host, and on the way to it. veth counts them for the one as not sent, for the other as not received.
func (h *Host) RingLosses() (from, to uint64, err error) {
	err = h.Do(func() error {
		dev, err := netlink.LinkByIndex(h.IfIndex)
		if err != nil {
			return fmt.Errorf("lab: %s: statistics of %s: %w", h.Name, h.Iface, err)
		}
		from, to = dev.Attrs().Statistics.TxDropped, dev.Attrs().Statistics.RxDropped
		return nil
	})
	return from, to, err
}
