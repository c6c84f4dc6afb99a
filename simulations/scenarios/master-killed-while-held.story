# The master is killed when a node did not become healthy and the update is held: it stays held until somebody decides.
nodes 3
package web 1.0.0
package web 1.1.0: health unhealthy
installed web 1.0.0
when held: kill the master for 2s
submit web 1.1.0 on all, rolling, hold
until held
wait 5s
decide abort
until ended
show
