# The master is killed as soon as the first node has started the new modules.
nodes 3
package web 1.0.0
package web 1.1.0
installed web 1.0.0
when started: kill the master for 2s
submit web 1.1.0 on all
until completed
show
