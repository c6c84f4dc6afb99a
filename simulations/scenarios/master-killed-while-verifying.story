# The master is killed when all nodes have changed over and it looks at what is installed.
nodes 3
package web 1.0.0
package web 1.1.0
installed web 1.0.0
when verifying: kill the master for 2s
submit web 1.1.0 on all
until completed
show
