# The master is killed while nodes go back, since what was new is not well: all of them go back.
nodes 3
package web 1.0.0
package web 1.1.0: health unhealthy
installed web 1.0.0
when regressing: kill the master for 2s
submit web 1.1.0 on all
until ended
show
