# A node has just come into Raft, and its power is cut: it is the one that it was, and forgets nothing that it said.
nodes 3
package web 1.1.0
when standby, 80ms later: cut-power the node for 1s
lose-disk n3 for 1s
wait 2s
let-in n3
wait 20s
submit web 1.1.0 on all
until ended
show
