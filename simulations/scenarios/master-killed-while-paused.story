# The master is killed when a user has paused a rolling update: nobody changes over until it is resumed.
nodes 3
package web 1.0.0: ready late
package web 1.1.0
installed web 1.0.0
when paused: kill the master for 2s
submit web 1.1.0 on all, rolling
until wave
pause
until paused
wait 10s
show
resume
until completed
show
