//go:build !race

package vmtest

const raceBuild = false
