# Variables that every start of mpitile needs; sourced, not run.

# One rank per core: threads inside a rank would only compete.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

# Open MPI refuses more ranks than cores: first the variable of version 5, then that of 4.
# MPICH starts any number.
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMPI_MCA_rmaps_base_oversubscribe=1

# In a container the user is often root, which Open MPI refuses as well.
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
