# A user forces an update past vetoes, and later takes all of it back.
nodes 3
package web 1.0.0: vote veto
package web 1.1.0
installed web 1.0.0
submit web 1.1.0 on all
until vetoed
decide force
until completed
show
regress on all
until ended
show
