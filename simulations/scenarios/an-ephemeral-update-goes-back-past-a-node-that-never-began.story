# An ephemeral update fails on a node that has not changed: it hears how that ended when the one that changed is back, and not before.
nodes 3
package web 1.0.0
package web 1.1.0
package call 1.0.0 needs web: ready never
installed web 1.0.0
submit call 1.0.0 on n3
until ended
when regressing: kill n2 for 3s
submit web 1.1.0 on all, rolling, ephemeral
until ended
show
