# The master is killed while an ephemeral update runs: it goes on running, and can be persisted after that.
nodes 3
package web 1.0.0
package web 1.1.0
installed web 1.0.0
when unpersisted: kill the master for 2s
submit web 1.1.0 on all, ephemeral
until unpersisted
wait 5s
show
persist
until completed
show
