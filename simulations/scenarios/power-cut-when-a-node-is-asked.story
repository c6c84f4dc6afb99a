# The power of a node is cut as soon as it has asked its processes: all nodes end on one side.
nodes 3
package web 1.0.0
package web 1.1.0
installed web 1.0.0
when asked: cut-power the node for 3s
submit web 1.1.0 on all
until ended
until quiet
show
