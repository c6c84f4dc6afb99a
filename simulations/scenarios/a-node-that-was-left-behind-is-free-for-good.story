# An ephemeral update goes on without a node that failed before it changed. That node is free from then on, also when the others go back.
nodes 3
package web 1.0.0
package web 1.1.0
package call 1.0.0 needs web: ready never
package tool 1.0.0
installed web 1.0.0
submit call 1.0.0 on n3
until ended
submit web 1.1.0 on all, rolling, ephemeral, regress-node
until unpersisted
submit tool 1.0.0 on n3, ephemeral
until unpersisted
of u3
cancel
until ended
show
of u4
persist
until ended
show
