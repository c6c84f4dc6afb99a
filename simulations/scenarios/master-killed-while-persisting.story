# The master is killed while nodes install what ran for a while.
nodes 3
package web 1.0.0
package web 1.1.0
installed web 1.0.0
submit web 1.1.0 on all, ephemeral
until unpersisted
when persisting: kill the master for 2s
persist
until completed
show
