"""The process that drives Ray, and the scheduler's connection to it.

Ray carries what workers return as pickles, and whoever reads a pickle runs what its writer put into
it. User code writes them. So a process of its own reads them, without a secret of the service, and
passes checked values on to the scheduler, which never loads Ray.
"""
