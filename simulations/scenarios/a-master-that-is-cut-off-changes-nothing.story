# The master is cut off in the middle of an update and goes on believing that it is one: the others go on without it, and it follows.
nodes 5
package web 1.0.0
package web 1.1.0
installed web 1.0.0
when go: cut-off the master for 10s
submit web 1.1.0 on all, rolling
until ended
until quiet
show
