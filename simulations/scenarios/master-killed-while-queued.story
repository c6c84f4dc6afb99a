# The master is killed when an update has to wait for another: it keeps its place, and comes after it.
nodes 3
package web 1.0.0
package web 1.1.0: ready late
package web 1.2.0
installed web 1.0.0
submit web 1.1.0 on all
when queued: kill the master for 2s
submit web 1.2.0 on n1 n2
until completed
until quiet
show
