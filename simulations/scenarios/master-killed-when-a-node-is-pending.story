# The master is killed as soon as the first node brings its processes to a safe point.
nodes 3
package web 1.0.0
package web 1.1.0
installed web 1.0.0
when pending: kill the master for 2s
submit web 1.1.0 on all
until completed
show
