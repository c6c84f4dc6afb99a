# The master is killed while nodes fetch: what they have fetched stays, and nobody is asked again.
nodes 3
package web 1.0.0
package web 1.1.0
installed web 1.0.0
when distributing: kill the master for 2s
submit web 1.1.0 on all
until completed
show
