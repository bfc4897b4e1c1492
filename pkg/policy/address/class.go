// Package address sorts IP addresses into the classes that no name may resolve
// to unless a rule says so.
package address
