// SPDX-License-Identifier: Apache-2.0

package tcp

import "errors"

// The reasons for which a connection ends other than by FINs.
var (
	ErrReset   = errors.New("tcp: connection reset by peer")
	ErrTimeout = errors.New("tcp: connection timed out: the peer stopped acknowledging")
	ErrAborted = errors.New("tcp: connection aborted")
)
