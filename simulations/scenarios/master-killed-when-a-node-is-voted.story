# The master is killed as soon as the first node has its votes together.
nodes 3
package web 1.0.0
package web 1.1.0
installed web 1.0.0
when voted: kill the master for 2s
submit web 1.1.0 on all
until completed
show
